// Package integration holds the tests that need more than one package at once:
// real processes, mounts, servers, crashes, and the arrows between packages.
// Nothing in it is importable by anybody else.
package integration
