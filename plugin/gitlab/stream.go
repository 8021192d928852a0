package gitlab

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
)

// upload is a request's body on its way up. The transport would copy it in pieces of
// 32 KiB; with WriteTo it lets us choose.
//
// It remembers its end: the transport looks once more for what may follow the length that
// was said, and by then the answer may have come and the body be closed. It would take that for a failure,
// and end the connection in the middle of the answer.
type upload struct {
	io.ReadCloser
	bufs  *buffers
	ended bool
}

func (u *upload) WriteTo(w io.Writer) (int64, error) { return u.bufs.move(w, reading{u}) }

func (u *upload) Read(p []byte) (int, error) {
	if u.ended {
		return 0, io.EOF
	}
	n, err := u.ReadCloser.Read(p)
	u.ended = err == io.EOF //nolint:errorlint // as a reader says it
	return n, err
}

// reading is a reader and nothing else.
type reading struct{ io.Reader }

// download passes on a request for artifacts. Its token is that of the job that made
// them, or of the one that wants them: both are in the record of the latter.
func (s *service) download(w http.ResponseWriter, r *http.Request, rt route) {
	j := s.fetcher(r, rt)
	if j == nil {
		refuse(w, http.StatusForbidden, "no job here may fetch this")
		return
	}
	defer j.begin()()
	if st := j.record().State; st == stateLost || st == stateDone {
		refuse(w, http.StatusForbidden, "the job is not this host's any more")
		return
	}
	s.stream(w, r, rt, j)
}

// fetcher is the job that may fetch another one's artifacts with the request's token.
func (s *service) fetcher(r *http.Request, rt route) *job {
	hash := hashToken(tokenOf(r))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.jobs {
		rec := j.record()
		if rt.slot != 0 && rt.slot != rec.Slot {
			continue
		}
		dep, listed := rec.Deps[rt.job]
		own := sameToken(hash, rec.TokenHash)
		if own && (listed || rt.job == rec.Job) || listed && sameToken(hash, dep) {
			return j
		}
	}
	return nil
}

// stream passes a request and its answer through, with no more memory than two
// buffers however long they are. It ends with the job's right. The answer's head is the
// proxy's to pass on, the body is moved by us.
func (s *service) stream(w http.ResponseWriter, r *http.Request, rt route, j *job) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(j.ctx, cancel)()
	var head *http.Response
	var body io.ReadCloser
	p := s.proxy(rt, j)
	p.ModifyResponse = func(resp *http.Response) error {
		s.absolute(resp)
		j.note(&answer{status: http.StatusOK, header: resp.Header})
		if resp.StatusCode != http.StatusSwitchingProtocols { // which the proxy refuses
			head, body = resp, resp.Body
			resp.Body, resp.Trailer = http.NoBody, nil
		}
		return nil
	}
	defer func() {
		// It panics so when the other side breaks off in the middle of an answer: the
		// runner must see a broken answer, not a short one that looks whole.
		if e := recover(); e != nil {
			if err, ok := e.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				s.log.Warn("a transfer broke off", "job", j.id)
			}
			panic(e)
		}
	}()
	p.ServeHTTP(w, r.WithContext(ctx))
	if body == nil {
		return
	}
	defer body.Close()
	to := io.Writer(w)
	if head.ContentLength < 0 {
		to = flushing{w} // somebody may wait for what has come
	}
	if _, err := s.bufs.move(to, body); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// proxy passes on a job's requests.
func (s *service) proxy(rt route, j *job) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			target := *s.up.base
			target.Path += rt.path
			target.RawQuery = pr.In.URL.RawQuery
			pr.Out.URL, pr.Out.Host = &target, ""
			pr.Out.Header = cleanHeader(pr.Out.Header)
			if pr.Out.Body != nil && pr.Out.Body != http.NoBody {
				pr.Out.Body = &upload{ReadCloser: pr.Out.Body, bufs: s.bufs}
			}
		},
		Transport:    s.up.rt,
		ErrorLog:     s.std,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { s.failed(w, r, j, err) },
	}
}

// flushing writes at once.
type flushing struct{ w http.ResponseWriter }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = http.NewResponseController(f.w).Flush()
	}
	return n, err
}

// absolute makes a redirect's target whole: the runner takes the address from it, and
// relative to us that would be ours, without the slot. It is not followed here; the
// runner goes there itself, as it would without us.
func (s *service) absolute(resp *http.Response) {
	loc := resp.Header.Get("Location")
	if loc == "" {
		return
	}
	if u, err := url.Parse(loc); err == nil && resp.Request != nil {
		resp.Header.Set("Location", resp.Request.URL.ResolveReference(u).String())
	}
}
