package install

import "io/fs"

func owner(fs.FileInfo) (uid, gid int, known bool) { return 0, 0, false }
