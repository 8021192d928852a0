package view

// AlwaysImage makes an erofs driver show every merge by an image, whatever is
// cheaper.
func AlwaysImage(d Driver) { d.(*Erofs).images.always = true }
