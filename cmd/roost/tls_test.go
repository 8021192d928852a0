package main

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/coordinator/api"
)

func secureConfig(t *testing.T) configs.Coordinator {
	c := configs.Default().Coordinator
	c.Listen, c.StateDir = "0.0.0.0:7780", t.TempDir()
	return c
}

// serve serves the health of a coordinator with its own certificate.
func serve(t *testing.T, cfg configs.Coordinator) *httptest.Server {
	conf, err := serverTLS(cfg)
	require.NoError(t, err)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`{"version":"x"}`))
	}))
	s.TLS = conf.Clone()
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func TestOwnCertificateIsKnownByItsPin(t *testing.T) {
	cfg := secureConfig(t)
	s := serve(t, cfg)
	for _, name := range []string{"tls/key.pem", "tls/cert.pem"} {
		fi, err := os.Stat(filepath.Join(cfg.StateDir, name))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), fi.Mode().Perm(), name)
	}
	pin, err := pinOfFile(filepath.Join(cfg.StateDir, "tls", "cert.pem"))
	require.NoError(t, err)
	again, err := serverTLS(cfg)
	require.NoError(t, err)
	require.Equal(t, s.TLS.Certificates[0].Certificate, again.Certificates[0].Certificate, "made once")

	health := func(pin string) error {
		c, err := api.NewClient(s.URL, "token", coordinatorHTTP(pin))
		require.NoError(t, err)
		return c.Health(t.Context())
	}
	require.NoError(t, health(pin))
	other := secureConfig(t)
	_, _, err = ensureCertificate(filepath.Join(other.StateDir, "tls"))
	require.NoError(t, err)
	wrong, err := pinOfFile(filepath.Join(other.StateDir, "tls", "cert.pem"))
	require.NoError(t, err)
	require.NotEqual(t, pin, wrong)
	require.ErrorContains(t, health(wrong), "another machine answers")
	require.Error(t, health(""), "no authority of this machine knows it")
}

// A pin is of the whole handshake: who has the certificate and not its key is refused.
func TestPinNeedsTheKey(t *testing.T) {
	cfg := secureConfig(t)
	conf, err := serverTLS(cfg)
	require.NoError(t, err)
	pin, err := pinOfFile(filepath.Join(cfg.StateDir, "tls", "cert.pem"))
	require.NoError(t, err)
	other, err := serverTLS(secureConfig(t))
	require.NoError(t, err)
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	stolen := conf.Certificates[0]
	stolen.PrivateKey = other.Certificates[0].PrivateKey
	s.TLS = &tls.Config{Certificates: []tls.Certificate{stolen}}
	s.StartTLS()
	defer s.Close()
	c, err := api.NewClient(s.URL, "token", coordinatorHTTP(pin))
	require.NoError(t, err)
	require.Error(t, c.Health(t.Context()))
}

func TestPlainOnLoopbackOnly(t *testing.T) {
	conf, err := serverTLS(configs.Default().Coordinator)
	require.NoError(t, err)
	require.Nil(t, conf)
	cfg := secureConfig(t)
	_, err = serverTLS(cfg)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(filepath.Join(cfg.StateDir, "tls", "key.pem"), 0o644))
	_, err = serverTLS(cfg)
	require.ErrorContains(t, err, "chmod 600")
}

func TestJoinLine(t *testing.T) {
	cfg := secureConfig(t)
	_, err := joinOf(cfg, "")
	require.ErrorContains(t, err, "token", "the coordinator was never started")
	_, err = ensureToken(filepath.Join(cfg.StateDir, "agent.token"))
	require.NoError(t, err)
	_, err = joinOf(cfg, "")
	require.Error(t, err)
	serve(t, cfg)
	j, err := joinOf(cfg, "")
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(j.URL, "https://") && strings.HasSuffix(j.URL, ":7780"), j.URL)
	back, err := parseJoin(j.line() + "\n")
	require.NoError(t, err)
	require.Equal(t, j, back)

	file := filepath.Join(t.TempDir(), "join")
	require.NoError(t, os.WriteFile(file, []byte(j.line()), 0o600))
	for _, arg := range []string{"@" + file, "-"} {
		got, err := readJoin(arg, strings.NewReader(j.line()), true)
		require.NoError(t, err)
		require.Equal(t, j, got)
	}
	_, err = readJoin(j.line(), nil, true)
	require.ErrorContains(t, err, "jobs on this machine can read")
	require.NotContains(t, err.Error(), j.token)
	_, err = readJoin(j.line(), nil, false)
	require.NoError(t, err)

	for _, bad := range []string{
		"", "roost-join:", "roost-join:https://x:1#" + j.Pin + "#short", "roost-join:https://x:1##" + j.token,
		"roost-join:http://x:1#" + j.Pin + "#" + j.token, "roost-join:http://10.0.0.1:1##" + j.token, "roost-join:ftp://x#" + j.Pin + "#" + j.token,
		"roost-join:https://x:1#abc#" + j.token, j.line() + "#more", "roost-join:https://u:p@x:1#" + j.Pin + "#" + j.token,
	} {
		_, err := parseJoin(bad)
		require.Error(t, err, bad)
		require.NotContains(t, err.Error(), j.token)
	}
	_, err = parseJoin("roost-join:http://127.0.0.1:7780##" + j.token)
	require.NoError(t, err, "a coordinator on the same machine")
}

func FuzzParseJoin(f *testing.F) {
	f.Add(testJoinLine)
	f.Fuzz(func(t *testing.T, s string) {
		j, err := parseJoin(s)
		if err != nil {
			return
		}
		again, err := parseJoin(j.line())
		require.NoError(t, err)
		require.Equal(t, j, again)
	})
}

const testJoinLine = "roost-join:https://ci-1.example.org:7780#0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef#tokentokentokentokentokentokentoken"

// Coordinator and agent as processes would be: TLS with a pin, a reload, and its limits.
func TestCoordinatorServesTLSAndReloads(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.toml")
	write := func(extra string) {
		require.NoError(t, os.WriteFile(file, []byte("[coordinator]\nlisten = \"0.0.0.0:0\"\nurl = \"https://127.0.0.1:1\"\nstate_dir = \""+filepath.Join(dir, "state")+"\"\n"+extra), 0o600))
	}
	write("")
	hup := &hangup{again: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), hangupKey{}, hup))
	out, log := newLines(), newLines()
	done := make(chan error, 1)
	go func() {
		root := newRoot()
		root.SetArgs([]string{"coordinator", "--config", file})
		root.SetOut(out)
		root.SetErr(log)
		done <- root.ExecuteContext(ctx)
	}()
	line := out.wait(t, "ready")
	require.Contains(t, line, `"url":"https://`)
	cfg, err := configs.Load(file, nil)
	require.NoError(t, err)
	j, err := joinOf(cfg.Coordinator, "")
	require.NoError(t, err)
	port := line[strings.LastIndex(line, ":")+1 : strings.LastIndex(line, `"`)]
	c, err := api.NewClient("https://127.0.0.1:"+port, j.token, coordinatorHTTP(j.Pin))
	require.NoError(t, err)
	require.NoError(t, c.Health(t.Context()))

	write("log_level = \"debug\"\nhost_lease = \"40s\"\n")
	require.True(t, hup.reload())
	log.wait(t, "configuration read again")
	require.Contains(t, log.wait(t, "NEED A RESTART"), "coordinator.host_lease")
	write("log_level = \"loud\"\n")
	require.True(t, hup.reload())
	require.Contains(t, log.wait(t, "NOT TAKEN OVER"), "log_level")
	require.NoError(t, c.Health(t.Context()))
	cancel()
	require.NoError(t, <-done)
}
