package agent

import "golang.org/x/sys/windows"

// diskSpace tells how much of dir's volume is free for us, and its size.
func diskSpace(dir string) (free, total int64) {
	p, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, 0
	}
	var avail, all uint64
	if windows.GetDiskFreeSpaceEx(p, &avail, &all, nil) != nil {
		return 0, 0
	}
	return int64(avail), int64(all) //nolint:gosec // no volume is that large
}

// diskUse measures the file system of a directory.
func diskUse(dir string) Disk {
	free, total := diskSpace(dir)
	return Disk{Used: total - free, Free: free, Total: total}
}
