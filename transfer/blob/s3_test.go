package blob_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
	"github.com/roost-ci/roost/transfer/blob/blobtest"
)

// s3Server starts a real S3 server and returns how to reach a fresh bucket.
func s3Server(t *testing.T) func(t *testing.T) blob.S3Options {
	t.Helper()
	if testing.Short() {
		t.Skip("a server is built for it, which takes minutes; make test does")
	}
	testenv.Require(t, testenv.S3)
	dir := t.TempDir()
	at := testenv.Addr(t)
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	defer log.Close()
	data := filepath.Join(dir, "data")
	require.NoError(t, os.Mkdir(data, 0o700))
	cmd := exec.Command(testenv.S3Server(), "--access", "access", "--secret", "secret-secret", "--port", at, "posix", data)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		cmd.Wait()         //nolint:errcheck // killed
	})
	require.Eventually(t, func() bool {
		c, err := net.DialTimeout("tcp", at, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	}, time.Minute, 20*time.Millisecond)
	creds := credentials.NewStaticV4("access", "secret-secret", "")
	c, err := minio.New(at, &minio.Options{Creds: creds})
	require.NoError(t, err)
	n := 0
	return func(t *testing.T) blob.S3Options {
		n++
		bucket := fmt.Sprintf("bucket-%d", n)
		require.NoError(t, c.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}))
		return blob.S3Options{Endpoint: at, Insecure: true, Bucket: bucket, Prefix: "some/where", Credentials: creds}
	}
}

func TestS3(t *testing.T) {
	fresh := s3Server(t)
	open := func(t *testing.T) *blob.S3 {
		s, err := blob.NewS3(fresh(t))
		require.NoError(t, err)
		return s
	}
	t.Run("blobs", func(t *testing.T) { blobtest.Run(t, func(t *testing.T) blob.Store { return open(t) }) })
	t.Run("refs", func(t *testing.T) { blobtest.RunRefs(t, func(t *testing.T) blob.Refs { return open(t) }) })
	t.Run("no bucket, no rights", func(t *testing.T) {
		o := fresh(t)
		b, d := blobtest.Random(1, 100)
		none := o
		none.Bucket = "there-is-none"
		s, err := blob.NewS3(none)
		require.NoError(t, err)
		require.Error(t, s.Put(t.Context(), d, int64(len(b)), blobtest.Bytes(b)))
		o.Credentials = credentials.NewStaticV4("access", "wrong", "")
		s, err = blob.NewS3(o)
		require.NoError(t, err)
		err = s.Put(t.Context(), d, int64(len(b)), blobtest.Bytes(b))
		var status *blob.StatusError
		require.ErrorAs(t, err, &status)
		require.Equal(t, 403, status.Status)
		_, err = s.GetRef(t.Context(), snapshot.ID("aaaaaaaaaaaaaaaaaaaaaaaaaa"))
		require.ErrorAs(t, err, &status)
	})
	t.Run("the server checks, too", func(t *testing.T) {
		s := open(t)
		b, d := blobtest.Random(2, 1<<20)
		require.NoError(t, s.Put(t.Context(), d, int64(len(b)), blobtest.Bytes(b)))
		r, err := s.Get(t.Context(), d, 1000, 10)
		require.NoError(t, err)
		got, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, b[1000:1010], got)
	})
}
