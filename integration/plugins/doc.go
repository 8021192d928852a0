// Package plugins has our own plugins pass the suite that others have to pass, in
// processes of their own, with what is around them in life: a GitLab and its runner.
package plugins
