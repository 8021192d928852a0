package erofs

import "errors"

// A POSIX ACL as getxattr(2) gives it and as the image holds it: a version, then
// for each entry its tag, permissions and id.
const (
	aclVersion   = 2
	aclHeader    = 4
	aclEntrySize = 8

	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

var errACL = errors.New("not a valid POSIX ACL")

// checkACL accepts what the kernel accepts from setfacl, in the one form in which
// it gives that back. An ACL that it can't parse would make every access to the
// file fail.
func checkACL(b []byte) error {
	if len(b) < aclHeader || (len(b)-aclHeader)%aclEntrySize != 0 || le.Uint32(b) != aclVersion {
		return errACL
	}
	last, seen, named := uint16(0), uint16(0), false
	for b = b[aclHeader:]; len(b) > 0; b = b[aclEntrySize:] {
		tag, perm, id := le.Uint16(b), le.Uint16(b[2:]), le.Uint32(b[4:])
		switch tag {
		case aclUser, aclGroup:
			if id == noID || tag < last {
				return errACL
			}
			named = true
		case aclUserObj, aclGroupObj, aclMask, aclOther:
			if tag <= last || id != noID { // they name nobody
				return errACL
			}
		default:
			return errACL
		}
		if perm&^7 != 0 {
			return errACL
		}
		last, seen = tag, seen|tag
	}
	const need = aclUserObj | aclGroupObj | aclOther
	if seen&need != need || named && seen&aclMask == 0 {
		return errACL
	}
	return nil
}
