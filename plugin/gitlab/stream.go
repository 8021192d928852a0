package gitlab

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
)

// streamBuffer is what one direction of a stream holds in memory.
const streamBuffer = 256 << 10

// buffers implements httputil.BufferPool.
type buffers struct{ sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.Pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, streamBuffer)
}

func (b *buffers) Put(p []byte) { b.Pool.Put(&p) }

// upload is a request's body on its way up. The transport would copy it in pieces of
// 32 KiB; with WriteTo it lets us choose.
type upload struct {
	io.ReadCloser
	bufs *buffers
}

func (u upload) WriteTo(w io.Writer) (int64, error) {
	buf := u.bufs.Get()
	defer u.bufs.Put(buf)
	return io.CopyBuffer(w, struct{ io.Reader }{u.ReadCloser}, buf)
}

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
// buffers however long they are. It ends with the job's right.
func (s *service) stream(w http.ResponseWriter, r *http.Request, rt route, j *job) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(j.ctx, cancel)()
	p := httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			target := *s.up.base
			target.Path += rt.path
			target.RawQuery = r.URL.RawQuery
			pr.Out.URL, pr.Out.Host = &target, ""
			pr.Out.Header = cleanHeader(pr.Out.Header)
			if pr.Out.Body != nil && pr.Out.Body != http.NoBody {
				pr.Out.Body = upload{pr.Out.Body, s.bufs}
			}
		},
		Transport:  s.up.rt,
		BufferPool: s.bufs,
		ErrorLog:   s.std,
		ModifyResponse: func(resp *http.Response) error {
			s.absolute(resp)
			j.note(&answer{status: http.StatusOK, header: resp.Header})
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { s.failed(w, r, j, err) },
	}
	defer func() {
		// The proxy panics so when the other side breaks off in the middle of an answer: the
		// runner must see a broken answer, not a short one that looks whole.
		if e := recover(); e != nil {
			if err, ok := e.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				s.log.Warn("a transfer broke off", "job", j.id)
			}
			panic(e)
		}
	}()
	p.ServeHTTP(w, r.WithContext(ctx))
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
