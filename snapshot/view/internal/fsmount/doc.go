// Package fsmount makes mounts by the kernel's mount API (fsopen, fsconfig,
// fsmount, move_mount): mount(2) takes one page of options, which a stack of a
// hundred directories does not fit in. An error says what the kernel said.
package fsmount
