package configs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// CheckFiles looks at the files that a configuration names and reports all that is
// wrong, each with its key. Secrets must be readable by their owner alone, unless
// anyMode is set, where modes mean nothing. Files that a daemon makes itself, and
// the agent's token on a machine without an agent, need not be there.
func CheckFiles(c Config, anyMode bool) error {
	var errs []error
	bad := func(key string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
	}
	err := secretFile(c.Agent.TokenFile, anyMode)
	if !c.GitLab.On() && errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	bad("agent.token_file", err)
	if co := c.Coordinator; co.TLSCert != "" && co.TLSKey != "" {
		bad("coordinator.tls_key_file", secretFile(co.TLSKey, anyMode))
		_, err := tls.LoadX509KeyPair(co.TLSCert, co.TLSKey)
		bad("coordinator.tls_cert_file", err)
	}
	bad("coordinator.gitlab_ca_file", caFile(c.Coordinator.GitLabCAFile))
	g := c.GitLab
	if !g.On() {
		return errors.Join(errs...)
	}
	for _, f := range g.TokenFiles {
		bad("gitlab.token_files", secretFile(f, anyMode))
	}
	for key, f := range map[string]string{"gitlab.api_token_file": g.APITokenFile, "gitlab.slot_tokens_file": g.SlotTokensFile} {
		if f != "" {
			bad(key, secretFile(f, anyMode))
		}
	}
	bad("gitlab.ca_file", caFile(g.CAFile))
	return errors.Join(errs...)
}

// secretFile checks that a file is there, is a file, holds something and is its
// owner's alone.
func secretFile(path string, anyMode bool) error {
	fi, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !fi.Mode().IsRegular():
		return fmt.Errorf("%s is not a file", path)
	case fi.Size() == 0:
		return fmt.Errorf("%s is empty", path)
	case fi.Mode().Perm()&0o077 != 0 && !anyMode:
		return fmt.Errorf("%s can be read by others (mode %04o): chmod 600 it", path, fi.Mode().Perm())
	}
	return nil
}

// caFile checks that a file holds certificates, if there is one.
func caFile(path string) error {
	if path == "" {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !x509.NewCertPool().AppendCertsFromPEM(b) {
		return fmt.Errorf("%s holds no certificate in PEM", path)
	}
	return nil
}
