package snapshot

import "strings"

// KeepsXattr reports whether a manifest may have an attribute of this name: a user's own, or
// an access list. The others are the system's, not a job's, and content that brought one with
// it would give itself rights: rights of programs, labels of security modules, overlay's own.
func KeepsXattr(name string) bool {
	switch name {
	case "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return len(name) > len("user.") && strings.HasPrefix(name, "user.")
}

// CheckXattrs returns an *UnsupportedError of the first attribute of e that KeepsXattr does
// not allow. It is asked before any is set, whoever looked at the manifest before.
func (e *Entry) CheckXattrs() error {
	for i := range e.Xattrs {
		if name := e.Xattrs[i].Name; !KeepsXattr(name) {
			return &UnsupportedError{Path: e.Path, What: "extended attribute " + name}
		}
	}
	return nil
}

// SetXattrs calls set for each attribute of a file that is open, access lists last: they
// can take from the owner the right to write, without which only root sets the others.
func (e *Entry) SetXattrs(set func(name string, value []byte) error) error {
	if err := e.CheckXattrs(); err != nil {
		return err
	}
	for _, lists := range []bool{false, true} {
		for _, x := range e.Xattrs {
			if strings.HasPrefix(x.Name, "system.") != lists {
				continue
			}
			if err := set(x.Name, x.Value); err != nil {
				return err
			}
		}
	}
	return nil
}
