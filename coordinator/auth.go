package coordinator

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
)

// caller is who makes a call.
type caller struct {
	role api.Role
	// attempt is the one that an attempt's token is good for.
	attempt snapshot.ID
	// host is the one that a host's own token is good for, "" for all.
	host string
}

const (
	attemptPrefix = "roost-attempt-"
	cookieName    = "roost_session"
	sessionLife   = 12 * time.Hour
)

// attemptToken is the token of an attempt. It is derived, not stored: a claim can
// be told again after a restart, and nothing in the database opens anything.
func (s *Server) attemptToken(id snapshot.ID, epoch int64) string {
	return attemptPrefix + string(id) + "-" + s.sign("attempt "+string(id)+" "+strconv.FormatInt(epoch, 10))
}

// authenticate finds out who makes a call. A wrong token is nobody's, as no token.
func (s *Server) authenticate(r *http.Request) caller {
	token := bearer(r)
	switch {
	case token == "":
	case !s.o.HostTokensOnly && same(token, s.o.AgentToken):
		return caller{role: api.RoleAgent}
	case same(token, s.o.UserToken):
		return caller{role: api.RoleUser}
	case strings.HasPrefix(token, attemptPrefix):
		if id, ok := s.checkAttempt(token); ok {
			return caller{role: api.RoleAttempt, attempt: id}
		}
	case s.o.HostOf != nil:
		if host := s.o.HostOf(token); host != "" {
			return caller{role: api.RoleAgent, host: host}
		}
	}
	return caller{role: api.RolePublic}
}

// bearer reads the token of a call: as a bearer, or as the password that git sends.
// A browser remembers a password and sends it along with whatever another page
// makes it ask for, so only an attempt's token, which nobody types in, may be one.
func bearer(r *http.Request) string {
	h := r.Header.Get("Authorization")
	if t, ok := strings.CutPrefix(h, "Bearer "); ok {
		return t
	}
	if _, password, ok := r.BasicAuth(); ok && strings.HasPrefix(password, attemptPrefix) {
		return password
	}
	return ""
}

// same compares in a time that says nothing about either.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// checkAttempt finds the attempt that a token is for. It is good while the attempt
// lives.
func (s *Server) checkAttempt(token string) (snapshot.ID, bool) {
	text, _, ok := strings.Cut(strings.TrimPrefix(token, attemptPrefix), "-")
	if !ok {
		return "", false
	}
	id, err := snapshot.ParseID(text)
	if err != nil {
		return "", false
	}
	s.mu.RLock()
	a := s.world.attempts[id]
	s.mu.RUnlock()
	if a == nil || a.EndMS != 0 {
		return "", false
	}
	return id, same(token, s.attemptToken(id, a.Epoch))
}

// session makes the value of a cookie: when it ends, signed. It is not the token,
// so a stolen one ends by itself.
func (s *Server) session() string {
	until := strconv.FormatInt(s.now().Add(sessionLife).Unix(), 10)
	return until + "." + s.sign("session "+until+" "+s.o.UserToken)
}

// hasSession reports whether a call carries a cookie that is still good.
func (s *Server) hasSession(r *http.Request) bool {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return false
	}
	until, mac, ok := strings.Cut(c.Value, ".")
	if !ok || !same(mac, s.sign("session "+until+" "+s.o.UserToken)) {
		return false
	}
	end, err := strconv.ParseInt(until, 10, 64)
	return err == nil && s.now().Unix() < end
}
