// Package gitlab speaks to GitLab in the place of a pool's runners: it asks for jobs
// with the runners' tokens while one of them waits for a job, reads what a job says
// about itself, keeps jobs alive until a host has them, and tells GitLab about those
// whose host was lost.
//
// It decides nothing and keeps nothing. What may be asked for, what becomes of a job
// that came, and what is owed to GitLab is the coordinator's, behind Board.
//
// A job that GitLab has given out is running there: it can't be handed back. So it is
// stored before anybody hears of it, and a request that may bring one is never cut off.
package gitlab
