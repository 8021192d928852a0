//go:build !unix

package durable

// SyncDir does nothing here: directories can't be synced, and the file system
// journals names by itself.
func SyncDir(string) error { return nil }
