//go:build !linux

package dockertest
