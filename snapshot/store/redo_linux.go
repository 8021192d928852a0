package store

import (
	"os"

	"golang.org/x/sys/unix"
)

// dataSync makes what was written to f durable, its times aside.
func dataSync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR { //nolint:errorlint // as the call gives it
			return err
		}
	}
}

// openPast opens a file for writing whole pages past the page cache.
func openPast(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Statx_t
	err = unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err == nil && (st.Mask&unix.STATX_DIOALIGN == 0 || st.Dio_offset_align == 0 || redoPage%st.Dio_offset_align != 0 ||
		st.Dio_mem_align == 0 || redoPage%st.Dio_mem_align != 0) {
		err = unix.EINVAL // it can't, or in larger pieces only
	}
	if err != nil {
		f.Close() //nolint:errcheck // nothing was written
		return nil, err
	}
	return f, nil
}
