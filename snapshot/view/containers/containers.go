// Package containers is the opt-in view driver "containers-storage": layer
// directories and mounts are made by the overlay driver of go.podman.io/storage,
// for hosts whose operators know Podman's tools and want to find layers where those
// look. Only that library's lowest level is used. Its Diff, ApplyDiff and Store are
// not: they cut times to seconds, inflate sparse files, drop sockets and most
// attributes, and know one parent (docs/dependencies.md).
//
// The package is imported for its effect, as it brings much with it.
package containers

// Name is the word in configuration.
const Name = "containers-storage"
