package gitlabtest

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
)

// RedirectUploads sends artifacts elsewhere by 307, as a server with several names
// does; "" ends it.
func (g *GitLab) RedirectUploads(url string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.redirect = url
}

// serveUpload is call 10. What breaks off leaves nothing.
func (g *GitLab) serveUpload(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	j := g.authLocked(w, r, "", false)
	to := g.redirect
	g.mu.Unlock()
	if j == nil {
		return
	}
	if to != "" {
		w.Header().Set("Location", to+r.URL.RequestURI())
		w.WriteHeader(http.StatusTemporaryRedirect)
		return
	}
	parts, err := r.MultipartReader()
	if err != nil {
		fail(w, http.StatusBadRequest, "400 Bad request - "+err.Error())
		return
	}
	for {
		part, err := parts.NextPart()
		if err != nil {
			fail(w, http.StatusBadRequest, "400 Bad request - file is missing")
			return
		}
		if part.FormName() != "file" {
			continue
		}
		a := stored{
			kind: cmp.Or(r.URL.Query().Get("artifact_type"), "archive"), format: cmp.Or(r.URL.Query().Get("artifact_format"), "zip"),
			name: cmp.Or(part.FileName(), "artifacts.zip"),
		}
		if err := g.store(&a, part); err != nil {
			fail(w, http.StatusBadRequest, "400 Bad request - "+err.Error())
			return
		}
		if _, err := parts.NextPart(); err != io.EOF { //nolint:errorlint // multipart says so
			os.Remove(a.path)
			fail(w, http.StatusBadRequest, "400 Bad request - cut off")
			return
		}
		g.mu.Lock()
		j.artifacts = append(j.artifacts, a)
		j.log.Uploads++
		g.notifyLocked()
		g.mu.Unlock()
		reply(w, http.StatusCreated, map[string]string{"message": "201 Created"})
		return
	}
}

func (g *GitLab) store(a *stored, from io.Reader) error {
	f, err := os.CreateTemp(g.dir, "artifact-*")
	if err != nil {
		return err
	}
	a.path = f.Name()
	a.size, err = io.Copy(f, from)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(a.path)
	}
	return err
}

// serveDownload is call 9: for the job's own token, or for that of a running job of the project.
func (g *GitLab) serveDownload(w http.ResponseWriter, r *http.Request) {
	id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
	token := r.Header.Get("Job-Token")
	g.mu.Lock()
	j := g.jobs[id]
	status := http.StatusForbidden
	if token == "" {
		status = http.StatusUnauthorized
	}
	allowed := false
	for _, o := range g.jobs {
		if j != nil && o.token == token && o.pipeline.project == j.pipeline.project {
			allowed = o == j || o.status == Running || o.status == Canceling
		}
	}
	var file *stored
	if allowed {
		status = http.StatusNotFound
		for i := range j.artifacts {
			if j.artifacts[i].kind == "archive" {
				file = &j.artifacts[i]
			}
		}
		j.log.Downloads++
	}
	direct := r.URL.Query().Get("direct_download") == "true" && g.o.DirectDownload
	g.mu.Unlock()
	switch {
	case file == nil:
		fail(w, status, fmt.Sprintf("%d %s", status, http.StatusText(status)))
	case direct:
		http.Redirect(w, r, fmt.Sprintf("%s/storage/%d?sig=%s", g.url, id, token), http.StatusFound)
	default:
		sendFile(w, r, file)
	}
}

// serveStorage is the object storage that a direct download is sent to.
func (g *GitLab) serveStorage(w http.ResponseWriter, r *http.Request) {
	id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
	g.mu.Lock()
	j := g.jobs[id]
	var file *stored
	if j != nil && r.URL.Query().Get("sig") != "" {
		for i := range j.artifacts {
			file = &j.artifacts[i]
		}
	}
	g.mu.Unlock()
	if file == nil {
		fail(w, http.StatusForbidden, "AccessDenied")
		return
	}
	sendFile(w, r, file)
}

func sendFile(w http.ResponseWriter, r *http.Request, a *stored) {
	f, err := os.Open(a.path)
	if err != nil {
		fail(w, http.StatusNotFound, "404 Not Found")
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/zip")
	w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", a.name))
	fi, err := f.Stat()
	if err != nil {
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	http.ServeContent(w, r, "", fi.ModTime(), f)
}
