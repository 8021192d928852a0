package pack

// blocks2 takes n blocks of 64 bytes, at least one, into the states of two messages.
// A state's words are in the order F, E, B, A, H, G, D, C.
//
//go:noescape
func blocks2(a, b *[8]uint32, p, q *byte, n int)

func cpuid(leaf, sub uint32) (ebx, ecx uint32)

// hasBlocks2 says that the processor has the instructions: SHA, SSSE3, SSE4.1.
var hasBlocks2 = func() bool {
	ebx, _ := cpuid(7, 0)
	_, ecx := cpuid(1, 0)
	return ebx&(1<<29) != 0 && ecx&(1<<9) != 0 && ecx&(1<<19) != 0
}()
