// Package viewtest is the one suite that every view driver passes. A driver's
// test calls Run; Same compares what two drivers say of the same jobs, byte for
// byte.
package viewtest
