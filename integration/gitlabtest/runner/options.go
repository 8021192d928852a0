package runner

import "fmt"

// options are those of the two commands.
type options struct {
	url, token, id, name, expire, format, kind string
	paths, exclude                             []string
	untracked                                  bool
}

func parse(args []string) (options, error) {
	var o options
	for i := 0; i < len(args); i++ {
		if args[i] == "--untracked" {
			o.untracked = true
			continue
		}
		if i+1 == len(args) {
			return o, fmt.Errorf("%s needs a value", args[i])
		}
		v := args[i+1]
		switch args[i] {
		case "--url":
			o.url = v
		case "--token":
			o.token = v
		case "--id":
			o.id = v
		case "--name":
			o.name = v
		case "--expire-in":
			o.expire = v
		case "--artifact-format":
			o.format = v
		case "--artifact-type":
			o.kind = v
		case "--path":
			o.paths = append(o.paths, v)
		case "--exclude":
			o.exclude = append(o.exclude, v)
		default:
			return o, fmt.Errorf("unknown %s", args[i])
		}
		i++
	}
	return o, nil
}
