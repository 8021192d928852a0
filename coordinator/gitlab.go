package coordinator

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"

	"github.com/roost-ci/roost/coordinator/gitlab"
)

// openGitLab makes the service that asks GitLab for jobs. It does nothing before a
// host brings runners.
func (s *Server) openGitLab() error {
	for _, u := range s.o.GitLabURLs {
		n, err := gitlab.Normal(u)
		if err != nil {
			return fmt.Errorf("coordinator.gitlab_urls: %w", err)
		}
		s.gitlabURLs = append(s.gitlabURLs, n)
	}
	rt := s.o.GitLabTransport
	if rt == nil {
		t, err := transport(s.o.GitLabCA)
		if err != nil {
			return err
		}
		rt = t
	}
	o := gitlab.Options{Board: board{s}, Transport: rt, Log: s.log.Named("gitlab"), Now: s.o.Now, Version: s.o.Version}
	if s.o.tune != nil {
		s.o.tune(&o)
	}
	s.gitlab = gitlab.New(o)
	return nil
}

// transport makes calls that trust ca, too. An answer may be long in coming: GitLab
// holds a request for a job.
func transport(ca []byte) (*http.Transport, error) {
	t := http.DefaultTransport.(*http.Transport).Clone() //nolint:errcheck,forcetypeassert // it is one
	t.ResponseHeaderTimeout = gitlab.MaxHold
	if len(ca) == 0 {
		return t, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(ca) {
		return nil, errors.New("the certificates for GitLab hold none in PEM")
	}
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return t, nil
}
