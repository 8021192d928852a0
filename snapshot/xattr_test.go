package snapshot

import "testing"

func TestKeepsXattr(t *testing.T) {
	for name, want := range map[string]bool{
		"user.comment":              true,
		"user.":                     false,
		"user":                      false,
		"system.posix_acl_access":   true,
		"system.posix_acl_default":  true,
		"system.nfs4_acl":           false,
		"security.capability":       false,
		"trusted.overlay.opaque":    false,
		"trusted.user.comment":      false,
		"system.posix_acl_access.x": false,
	} {
		if got := KeepsXattr(name); got != want {
			t.Errorf("KeepsXattr(%q) = %v, want %v", name, got, want)
		}
	}
}
