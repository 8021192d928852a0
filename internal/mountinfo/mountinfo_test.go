package mountinfo

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		"/plain": "/plain", `/a\040b`: "/a b", `\134040`: `\040`, `/tab\011\012`: "/tab\t\n",
		`/short\04`: `/short\04`, `/no\9ab`: `/no\9ab`, `\`: `\`,
	} {
		require.Equal(t, want, Unescape(in), in)
	}
}

func TestInside(t *testing.T) {
	for _, c := range []struct {
		p, dir string
		want   bool
	}{{"/a", "/a", true}, {"/a/b", "/a", true}, {"/ab", "/a", false}, {"/", "/a", false}, {"/a", "/", true}} {
		require.Equal(t, c.want, Inside(c.p, c.dir), "%s in %s", c.p, c.dir)
	}
}
