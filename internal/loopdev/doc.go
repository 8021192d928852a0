// Package loopdev makes files block devices, and tells which file stands behind one. A
// device is the kernel's: it stays while anybody has it open or mounted, also when the
// process that made it is gone. There is something in here on Linux alone.
package loopdev
