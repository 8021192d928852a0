//go:build !linux

package exec

func playVictim() {}
