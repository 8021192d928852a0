// Package viewtest is the one suite that every view driver passes. A driver's
// test calls Run, or Suite.Run for a certain file system; all that ran in one
// process must have said the same of the same jobs, byte for byte.
package viewtest
