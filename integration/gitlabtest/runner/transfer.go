package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"time"
)

var errUnavailable = errors.New("service unavailable")

// fatal is an answer after which there is no other try.
type fatal struct{ status int }

func (f fatal) Error() string {
	return fmt.Sprintf("fatal: %d %s", f.status, http.StatusText(f.status))
}

// uploadCommand is artifacts-uploader: three tries, six for 503, the archive made anew
// for each and for each redirect, which is followed with all its path, as real runners do
// that can make the body again (the notes tell of older ones, which keep the path).
func uploadCommand(args []string, scale float64, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	o.format = cmp.Or(o.format, "zip")
	files, err := collect(o, out)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		fmt.Fprintln(out, "ERROR: No files to upload")
		return nil
	}
	c := &Config{Scale: scale}
	cl := newClient(c, &Entry{URL: o.url})
	for try, tries := 1, 3; ; try++ {
		err = upload(cl, o, files)
		var f fatal
		switch {
		case err == nil:
			fmt.Fprintf(out, "Uploading artifacts as %q to coordinator... 201 Created\n", cmp.Or(o.kind, "archive"))
			return nil
		case errors.As(err, &f):
			return err
		case errors.Is(err, errUnavailable):
			tries = 6
		}
		fmt.Fprintf(out, "WARNING: Retrying... error=%v\n", err)
		if try >= tries {
			return err
		}
		c.sleep(context.Background(), time.Second)
	}
}

func upload(cl *client, o options, files []string) error {
	boundary := multipart.NewWriter(io.Discard)
	first := form(boundary.Boundary(), o, files)
	defer first.Close()
	q := url.Values{}
	for k, v := range map[string]string{"expire_in": o.expire, "artifact_format": o.format, "artifact_type": o.kind} {
		if v != "" {
			q.Set(k, v)
		}
	}
	req, err := http.NewRequestWithContext(context.Background(), "POST", cl.base+"jobs/"+o.id+"/artifacts?"+q.Encode(), first)
	if err != nil {
		return err
	}
	req.GetBody = func() (io.ReadCloser, error) { return form(boundary.Boundary(), o, files), nil }
	req.Header = http.Header{"Job-Token": {o.token}, "Content-Type": {boundary.FormDataContentType()}, "User-Agent": {userAgent}}
	resp, err := cl.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusCreated:
		return nil
	case http.StatusForbidden, http.StatusRequestEntityTooLarge:
		return fatal{resp.StatusCode}
	case http.StatusServiceUnavailable:
		return errUnavailable
	}
	return errors.New(resp.Status)
}

// form is the body of an upload: it is made while it is read.
func form(boundary string, o options, files []string) io.ReadCloser {
	pr, pw := io.Pipe()
	m := multipart.NewWriter(pw)
	go func() { // it ends when the reader does, or is closed
		err := m.SetBoundary(boundary)
		var part io.Writer
		if err == nil {
			part, err = m.CreateFormFile("file", archiveName(o))
		}
		if err == nil {
			err = archive(part, o.format, files)
		}
		if err == nil {
			err = m.Close()
		}
		pw.CloseWithError(err)
	}()
	return pr
}

func archiveName(o options) string {
	name := path.Base(cmp.Or(o.name, "artifacts"))
	switch o.format {
	case "gzip":
		return name + ".gz"
	case "raw":
		return name
	}
	return name + ".zip"
}

// downloadCommand is artifacts-downloader: three tries, direct the first time.
func downloadCommand(args []string, scale float64, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	c := &Config{Scale: scale}
	cl := newClient(c, &Entry{URL: o.url})
	f, err := os.CreateTemp("", "artifacts-*.zip")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	for try := range 3 {
		if try > 0 {
			fmt.Fprintf(out, "WARNING: Retrying... error=%v\n", err)
			c.sleep(context.Background(), time.Second)
		}
		err = download(cl, o, f, try == 0)
		var fa fatal
		if err == nil || errors.As(err, &fa) {
			break
		}
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Downloading artifacts from coordinator... ok  id=%s\n", o.id)
	wd, err := os.Getwd()
	if err != nil {
		return err
	}
	return extract(f.Name(), filepath.Clean(wd))
}

// download asks for a direct download the first time, without following it, to know
// whether there is one; if so it asks again and follows.
func download(cl *client, o options, f *os.File, direct bool) error {
	target := cl.base + "jobs/" + o.id + "/artifacts"
	if direct {
		target += "?direct_download=true"
	}
	probe := *cl.http
	probe.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for follow := !direct; ; follow = true {
		req, err := http.NewRequestWithContext(context.Background(), "GET", target, nil)
		if err != nil {
			return err
		}
		req.Header = http.Header{"Job-Token": {o.token}, "User-Agent": {userAgent}}
		c := &probe
		if follow {
			c = cl.http
		}
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusOK:
			if err := f.Truncate(0); err != nil {
				return err
			}
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				return err
			}
			_, err := io.Copy(f, resp.Body)
			return err
		case http.StatusFound, http.StatusTemporaryRedirect:
			if follow {
				return errors.New(resp.Status)
			}
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
			return fatal{resp.StatusCode}
		default:
			return errors.New(resp.Status)
		}
	}
}
