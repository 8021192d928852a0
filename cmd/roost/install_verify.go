package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/roost-ci/roost/internal/pause"
)

// verifyFor is how long the runner may take to be known through a new agent.
const verifyFor = 45 * time.Second

// verify asks, as the runner does, whether slot 1's token is good.
func (o *installOptions) verify(ctx context.Context, p *installPlan, out *outcome) error {
	switch {
	case p.verifyURL == "":
		return nil
	case o.noStart:
		out.Verified = "--no-start"
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, verifyFor)
	defer cancel()
	for {
		status, err := askVerify(ctx, p.verifyURL, p.verifyToken)
		switch {
		case err == nil && status == http.StatusOK:
			out.Verified = "yes"
			return nil
		case err == nil && status == http.StatusForbidden:
			return errors.New("GitLab does not know the runner's token, or the agent not that of slot 1 (403)")
		case err != nil && !o.systemd():
			out.Verified = "the agent is not running"
			return nil
		case err == nil && !o.systemd():
			out.Verified = fmt.Sprintf("what listens there is not the agent: answer %d", status)
			return nil
		case err == nil:
			err = fmt.Errorf("answer %d", status)
		}
		if pause.For(ctx, time.Second) != nil {
			return fmt.Errorf("the runner can't be verified through %s: %w (the agent's log: journalctl -u roost-agent)", p.verifyURL, err)
		}
	}
}

func askVerify(ctx context.Context, url, token string) (int, error) {
	body, err := json.Marshal(map[string]string{"token": token})
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Runner-Token", token)
	c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	return res.StatusCode, nil
}
