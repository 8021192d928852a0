package gitlab

import (
	"encoding/json"
	"net/http"
)

// verify passes on the question whether the runner's token is good, with the real
// token in place of the slot's own, and the answer with the slot's own in place of the
// real one. The runner must not learn that the real one expires: it would ask for a new one.
func (s *service) verify(w http.ResponseWriter, r *http.Request, sl *slot) {
	body, err := readAsk(w, r)
	if err != nil {
		refuse(w, http.StatusBadRequest, "the request is not a JSON object")
		return
	}
	if !sl.knows(r, body) {
		refuse(w, http.StatusForbidden, "not this slot's token")
		return
	}
	body.set("token", sl.cfg.UpstreamToken)
	header := cleanHeader(r.Header)
	if header.Get("Runner-Token") != "" {
		header.Set("Runner-Token", sl.cfg.UpstreamToken)
	}
	a, err := s.up.do(r.Context(), http.MethodPost, "api/v4/runners/verify", "", header, body.bytes())
	if err != nil {
		s.log.Warn("GitLab can't be reached to verify a runner", "slot", sl.cfg.Number, "error", err)
		refuse(w, http.StatusBadGateway, "GitLab can't be reached")
		return
	}
	if o, err := parseObject(a.body); err == nil {
		if o.get("token") != nil {
			o.set("token", sl.cfg.Token)
		}
		if o.get("token_expires_at") != nil {
			o.set("token_expires_at", json.RawMessage("null"))
		}
		a.body = o.bytes()
	}
	a.write(w)
}
