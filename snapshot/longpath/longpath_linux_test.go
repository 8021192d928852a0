package longpath

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestDo(t *testing.T) {
	long, name := t.TempDir(), strings.Repeat("n", 255)
	require.NoError(t, os.WriteFile(long+"/f", []byte("near"), 0o600))
	at, err := unix.Open(long, unix.O_PATH, 0)
	require.NoError(t, err)
	for range 40 {
		require.NoError(t, unix.Mkdirat(at, name, 0o700))
		next, err := unix.Openat(at, name, unix.O_PATH, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Close(at))
		at, long = next, long+"/"+name
	}
	f, err := unix.Openat(at, "f", unix.O_CREAT|unix.O_WRONLY, 0o600)
	require.NoError(t, err)
	_, err = unix.Write(f, []byte("far"))
	require.NoError(t, err)
	require.NoError(t, unix.Close(f))
	require.NoError(t, unix.Close(at))

	read := func(p string) (text string, err error) {
		err = Do(p, func(short string) error {
			b, err := os.ReadFile(short)
			text = string(b)
			return err
		})
		return text, err
	}
	_, err = os.ReadFile(long + "/f")
	require.ErrorIs(t, err, unix.ENAMETOOLONG)
	text, err := read(long + "/f")
	require.NoError(t, err)
	require.Equal(t, "far", text)
	text, err = read(strings.Repeat("/", 5000) + strings.TrimPrefix(long, "/") + "//f")
	require.NoError(t, err)
	require.Equal(t, "far", text)
	_, err = read(long + "/no")
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = read(strings.Repeat("x", 5000))
	require.ErrorIs(t, err, unix.ENAMETOOLONG)
	open, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for range 10 {
		read(long + "/f") //nolint:errcheck // as above
	}
	again, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	require.Len(t, again, len(open))
}
