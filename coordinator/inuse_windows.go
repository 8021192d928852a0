package coordinator

import "syscall"

// errInUse is WSAEADDRINUSE, which is not the EADDRINUSE of package syscall.
const errInUse = syscall.Errno(10048)
