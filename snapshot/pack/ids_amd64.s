#include "textflag.h"

// SHA-256 with the processor's instructions for it, on two messages at once. Each
// of a message's rounds waits for the one before it, for twice as long as it takes:
// the rounds of the other message fit in between.

// ROUNDS4 does four rounds with the words w.
#define ROUNDS4(k, w, s0, s1) \
	MOVOU       k(AX), X0    \
	PADDD       w, X0        \
	SHA256RNDS2 X0, s0, s1   \
	PSHUFD      $0x0e, X0, X0 \
	SHA256RNDS2 X0, s1, s0

// WORDS4 puts the words 16 behind those of w0 in their place.
#define WORDS4(w0, w1, w2, w3) \
	SHA256MSG1 w1, w0     \
	MOVO       w3, X13    \
	PALIGNR    $4, w2, X13 \
	PADDD      X13, w0    \
	SHA256MSG2 w3, w0

#define BOTH4(k, a0, b0) \
	ROUNDS4(k, a0, X1, X2) \
	ROUNDS4(k, b0, X7, X8)

#define BOTH4W(k, a0, a1, a2, a3, b0, b1, b2, b3) \
	BOTH4(k, a0, b0)       \
	WORDS4(a0, a1, a2, a3) \
	WORDS4(b0, b1, b2, b3)

#define LOAD(off, p, w) \
	MOVOU  off(p), w \
	PSHUFB X14, w

// func blocks2(a, b *[8]uint32, p, q *byte, n int)
TEXT ·blocks2(SB), NOSPLIT, $64-40
	MOVQ  a+0(FP), R8
	MOVQ  b+8(FP), R9
	MOVQ  p+16(FP), SI
	MOVQ  q+24(FP), DI
	MOVQ  n+32(FP), CX
	LEAQ  roundKeys<>(SB), AX
	MOVOU swap<>(SB), X14
	MOVOU (R8), X1
	MOVOU 16(R8), X2
	MOVOU (R9), X7
	MOVOU 16(R9), X8

next:
	MOVOU X1, s-64(SP)
	MOVOU X2, s-48(SP)
	MOVOU X7, s-32(SP)
	MOVOU X8, s-16(SP)
	LOAD(0, SI, X3)
	LOAD(16, SI, X4)
	LOAD(32, SI, X5)
	LOAD(48, SI, X6)
	LOAD(0, DI, X9)
	LOAD(16, DI, X10)
	LOAD(32, DI, X11)
	LOAD(48, DI, X12)
	BOTH4W(0, X3, X4, X5, X6, X9, X10, X11, X12)
	BOTH4W(16, X4, X5, X6, X3, X10, X11, X12, X9)
	BOTH4W(32, X5, X6, X3, X4, X11, X12, X9, X10)
	BOTH4W(48, X6, X3, X4, X5, X12, X9, X10, X11)
	BOTH4W(64, X3, X4, X5, X6, X9, X10, X11, X12)
	BOTH4W(80, X4, X5, X6, X3, X10, X11, X12, X9)
	BOTH4W(96, X5, X6, X3, X4, X11, X12, X9, X10)
	BOTH4W(112, X6, X3, X4, X5, X12, X9, X10, X11)
	BOTH4W(128, X3, X4, X5, X6, X9, X10, X11, X12)
	BOTH4W(144, X4, X5, X6, X3, X10, X11, X12, X9)
	BOTH4W(160, X5, X6, X3, X4, X11, X12, X9, X10)
	BOTH4W(176, X6, X3, X4, X5, X12, X9, X10, X11)
	BOTH4(192, X3, X9)
	BOTH4(208, X4, X10)
	BOTH4(224, X5, X11)
	BOTH4(240, X6, X12)
	MOVOU s-64(SP), X3
	MOVOU s-48(SP), X4
	MOVOU s-32(SP), X9
	MOVOU s-16(SP), X10
	PADDD X3, X1
	PADDD X4, X2
	PADDD X9, X7
	PADDD X10, X8
	ADDQ  $64, SI
	ADDQ  $64, DI
	DECQ  CX
	JNZ   next
	MOVOU X1, (R8)
	MOVOU X2, 16(R8)
	MOVOU X7, (R9)
	MOVOU X8, 16(R9)
	RET

// func cpuid(leaf, sub uint32) (ebx, ecx uint32)
TEXT ·cpuid(SB), NOSPLIT, $0-16
	MOVL leaf+0(FP), AX
	MOVL sub+4(FP), CX
	CPUID
	MOVL BX, ebx+8(FP)
	MOVL CX, ecx+12(FP)
	RET

// swap makes words of big-endian bytes.
DATA swap<>+0(SB)/8, $0x0405060700010203
DATA swap<>+8(SB)/8, $0x0c0d0e0f08090a0b
GLOBL swap<>(SB), RODATA|NOPTR, $16

// roundKeys are the standard's constants.
DATA roundKeys<>+0(SB)/8, $0x71374491428a2f98
DATA roundKeys<>+8(SB)/8, $0xe9b5dba5b5c0fbcf
DATA roundKeys<>+16(SB)/8, $0x59f111f13956c25b
DATA roundKeys<>+24(SB)/8, $0xab1c5ed5923f82a4
DATA roundKeys<>+32(SB)/8, $0x12835b01d807aa98
DATA roundKeys<>+40(SB)/8, $0x550c7dc3243185be
DATA roundKeys<>+48(SB)/8, $0x80deb1fe72be5d74
DATA roundKeys<>+56(SB)/8, $0xc19bf1749bdc06a7
DATA roundKeys<>+64(SB)/8, $0xefbe4786e49b69c1
DATA roundKeys<>+72(SB)/8, $0x240ca1cc0fc19dc6
DATA roundKeys<>+80(SB)/8, $0x4a7484aa2de92c6f
DATA roundKeys<>+88(SB)/8, $0x76f988da5cb0a9dc
DATA roundKeys<>+96(SB)/8, $0xa831c66d983e5152
DATA roundKeys<>+104(SB)/8, $0xbf597fc7b00327c8
DATA roundKeys<>+112(SB)/8, $0xd5a79147c6e00bf3
DATA roundKeys<>+120(SB)/8, $0x1429296706ca6351
DATA roundKeys<>+128(SB)/8, $0x2e1b213827b70a85
DATA roundKeys<>+136(SB)/8, $0x53380d134d2c6dfc
DATA roundKeys<>+144(SB)/8, $0x766a0abb650a7354
DATA roundKeys<>+152(SB)/8, $0x92722c8581c2c92e
DATA roundKeys<>+160(SB)/8, $0xa81a664ba2bfe8a1
DATA roundKeys<>+168(SB)/8, $0xc76c51a3c24b8b70
DATA roundKeys<>+176(SB)/8, $0xd6990624d192e819
DATA roundKeys<>+184(SB)/8, $0x106aa070f40e3585
DATA roundKeys<>+192(SB)/8, $0x1e376c0819a4c116
DATA roundKeys<>+200(SB)/8, $0x34b0bcb52748774c
DATA roundKeys<>+208(SB)/8, $0x4ed8aa4a391c0cb3
DATA roundKeys<>+216(SB)/8, $0x682e6ff35b9cca4f
DATA roundKeys<>+224(SB)/8, $0x78a5636f748f82ee
DATA roundKeys<>+232(SB)/8, $0x8cc7020884c87814
DATA roundKeys<>+240(SB)/8, $0xa4506ceb90befffa
DATA roundKeys<>+248(SB)/8, $0xc67178f2bef9a3f7
GLOBL roundKeys<>(SB), RODATA|NOPTR, $256
