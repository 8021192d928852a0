package blob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/roost-ci/roost/snapshot"
)

// S3Options say where an S3 store is and who asks. Bucket and Credentials must be
// set.
type S3Options struct {
	// Endpoint is host[:port] of the server; default AWS. Insecure is plain HTTP.
	Endpoint string
	Insecure bool
	Region   string // "" asks the server
	Bucket   string
	// Prefix stands before every key, without a slash at its ends; "" is none.
	Prefix      string
	Credentials *credentials.Credentials
}

// S3 is a Store in a bucket, blobs under <prefix>/blobs/<digest>, refs under
// <prefix>/refs/<id>. The server is given the digest with each blob, and answers
// only when it has found it right; what comes back is the reader's to verify, as
// from any Store. It tries each call once.
type S3 struct {
	c      *minio.Core
	bucket string
	prefix string
}

// NewS3 returns a Store. Nothing is asked of the server yet.
func NewS3(o S3Options) (*S3, error) {
	if o.Endpoint == "" {
		o.Endpoint = "s3.amazonaws.com"
	}
	c, err := minio.NewCore(o.Endpoint, &minio.Options{
		Creds: o.Credentials, Secure: !o.Insecure, Region: o.Region, MaxRetries: 1,
	})
	if err != nil {
		return nil, fmt.Errorf("s3: %w", err)
	}
	s := &S3{c: c, bucket: o.Bucket}
	if p := strings.Trim(o.Prefix, "/"); p != "" {
		s.prefix = p + "/"
	}
	return s, nil
}

func (s *S3) key(d snapshot.Digest) string { return s.prefix + "blobs/" + d.String() }

// Put implements Store. One request sends it all: S3 has the object whole or not.
func (s *S3) Put(ctx context.Context, d snapshot.Digest, size int64, open func() (io.ReadCloser, error)) error {
	if there, err := holds(ctx, s, d, size); there || err != nil {
		return err
	}
	body, err := open()
	if err != nil {
		return fmt.Errorf("blob %s: %w", d, err)
	}
	defer body.Close() //nolint:errcheck // only read from
	v := &verified{r: body, h: sha256.New(), want: d, left: size}
	if err := v.fill(); err != nil { // the size of nothing, too, is checked before anything goes
		return err
	}
	_, err = s.c.PutObject(ctx, s.bucket, s.key(d), v, size, "", d.String(), minio.PutObjectOptions{
		DisableContentSha256: true, // of chunks: that of all goes with the request
		ContentType:          "application/octet-stream",
		UserMetadata:         map[string]string{"x-amz-checksum-sha256": base64.StdEncoding.EncodeToString(d[:])},
	})
	if v.err != nil && v.err != io.EOF { //nolint:errorlint // our own, never wrapped
		return v.err
	}
	return s.wrap(ctx, "blob "+d.String(), err)
}

// verified gives exactly left bytes of r, the last of them only when all were found
// to be want's: a body that is not is never whole.
type verified struct {
	r    io.Reader
	h    hash.Hash
	want snapshot.Digest
	left int64  // to be read
	buf  []byte // read, hashed and checked as far as can be, not handed out
	err  error  // after buf
}

// ahead is how much of a body is held back.
const ahead = 256 << 10

func (v *verified) Read(p []byte) (int, error) {
	if len(v.buf) == 0 {
		if v.err != nil {
			return 0, v.err
		}
		if err := v.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, v.buf)
	v.buf = v.buf[n:]
	if n == 0 && len(p) > 0 {
		return 0, v.err
	}
	return n, nil
}

// fill reads on. At the end it checks what there was.
func (v *verified) fill() error {
	n := min(v.left, ahead)
	buf := make([]byte, n)
	got, err := io.ReadFull(v.r, buf)
	if err != nil && n > 0 {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.ErrUnexpectedEOF
		}
		v.err = fmt.Errorf("blob %s: body, %d bytes too few: %w", v.want, v.left-int64(got), err)
		return v.err
	}
	v.h.Write(buf)
	v.left -= n
	if v.left > 0 {
		v.buf = buf
		return nil
	}
	var one [1]byte
	if n, err := io.ReadFull(v.r, one[:]); n > 0 {
		v.err = corrupt(v.want, "more bytes than announced")
	} else if !errors.Is(err, io.EOF) {
		v.err = fmt.Errorf("blob %s: body: %w", v.want, err)
	} else if sum := snapshot.Digest(v.h.Sum(nil)); sum != v.want {
		v.err = corrupt(v.want, "the bytes hash to "+sum.String())
	} else {
		v.buf, v.err = buf, io.EOF
		return nil
	}
	return v.err
}

// Get implements Store.
func (s *S3) Get(ctx context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
	if off < 0 {
		return nil, corrupt(d, fmt.Sprintf("asked for offset %d", off))
	}
	if n == 0 {
		return emptyRange(ctx, s, d, off)
	}
	var o minio.GetObjectOptions
	if h := rangeHeader(off, n); h != "" {
		o.Set("Range", h)
	}
	body, info, _, err := s.c.GetObject(ctx, s.bucket, s.key(d), o)
	if err != nil {
		return rangeRefused(ctx, s, d, off, n, s.wrap(ctx, "blob "+d.String(), err))
	}
	left := info.Size // of what was asked for
	if n > 0 && left != n {
		body.Close() //nolint:errcheck // only read from
		return nil, corrupt(d, fmt.Sprintf("asked for %d bytes at %d, there are %d", n, off, left))
	}
	return &exactReader{r: body, c: body, left: left}, nil
}

// Stat implements Store.
func (s *S3) Stat(ctx context.Context, d snapshot.Digest) (int64, error) {
	info, err := s.c.StatObject(ctx, s.bucket, s.key(d), minio.StatObjectOptions{})
	if err != nil {
		return 0, s.wrap(ctx, "blob "+d.String(), err)
	}
	return info.Size, nil
}

// PutRef implements Refs.
func (s *S3) PutRef(ctx context.Context, id snapshot.ID, b []byte) error {
	if err := checkRef(id, b); err != nil {
		return err
	}
	have, err := s.GetRef(ctx, id)
	if err != nil && !errors.Is(err, snapshot.ErrNotFound) {
		return err
	}
	if err != nil {
		o := minio.PutObjectOptions{DisableMultipart: true, ContentType: "application/json"}
		o.SetMatchETagExcept("*") // create only
		_, err = s.c.Client.PutObject(ctx, s.bucket, s.prefix+"refs/"+string(id), bytes.NewReader(b), int64(len(b)), o)
		err = s.wrap(ctx, "ref "+string(id), err)
		var e *StatusError
		if err != nil && (!errors.As(err, &e) || e.Status != http.StatusPreconditionFailed && e.Status != http.StatusConflict) {
			return err
		}
		// Not every server knows the condition, and somebody may have been faster.
		if have, err = s.GetRef(ctx, id); err != nil {
			return err
		}
	}
	if !bytes.Equal(have, b) {
		return otherRef(id)
	}
	return nil
}

// GetRef implements Refs.
func (s *S3) GetRef(ctx context.Context, id snapshot.ID) ([]byte, error) {
	if err := checkRef(id, nil); err != nil {
		return nil, err
	}
	body, _, _, err := s.c.GetObject(ctx, s.bucket, s.prefix+"refs/"+string(id), minio.GetObjectOptions{})
	if err != nil {
		return nil, s.wrap(ctx, "ref "+string(id), err)
	}
	defer body.Close() //nolint:errcheck // only read from
	return readRef(id, body)
}

// wrap makes a *StatusError of an answer of the server's.
func (s *S3) wrap(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
	e := minio.ToErrorResponse(err)
	if e.StatusCode == 0 {
		return fmt.Errorf("%s: %w", what, err)
	}
	if e.Code == minio.NoSuchBucket {
		return fmt.Errorf("%s: there is no bucket %q", what, s.bucket)
	}
	text := e.Message
	if text == "" {
		text = http.StatusText(e.StatusCode)
	}
	return fmt.Errorf("%s: %w", what, &StatusError{Status: e.StatusCode, Code: e.Code, Text: text})
}
