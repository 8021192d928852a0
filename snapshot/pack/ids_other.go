//go:build !amd64

package pack

const hasBlocks2 = false

func blocks2(_, _ *[8]uint32, _, _ *byte, _ int) { panic("not on this machine") }
