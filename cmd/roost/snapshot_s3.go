package main

import (
	"errors"
	"net/url"
	"os"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/roost-ci/roost/transfer/blob"
)

// openS3 opens s3://bucket/prefix by what the environment says, in the words that
// other tools have for it.
func openS3(u *url.URL) (depot, func(), error) {
	if u.Host == "" {
		return nil, nil, usageError(errors.New("which bucket?"), "s3://BUCKET/PREFIX")
	}
	key, secret := os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
	if key == "" || secret == "" {
		return nil, nil, usageError(errors.New("no credentials for S3"), "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	o := blob.S3Options{
		Bucket: u.Host, Prefix: u.Path, Region: first(os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION")),
		Credentials: credentials.NewStaticV4(key, secret, os.Getenv("AWS_SESSION_TOKEN")),
	}
	if at := first(os.Getenv("AWS_ENDPOINT_URL_S3"), os.Getenv("AWS_ENDPOINT_URL")); at != "" {
		e, err := url.Parse(at)
		if err != nil || e.Host == "" || e.Scheme != "http" && e.Scheme != "https" || e.Path != "" && e.Path != "/" {
			return nil, nil, usageError(errors.New("AWS_ENDPOINT_URL is no URL of a server"), "such as https://s3.example.org")
		}
		o.Endpoint, o.Insecure = e.Host, e.Scheme == "http"
	}
	s, err := blob.NewS3(o)
	if err != nil {
		return nil, nil, usageError(err, "")
	}
	return s, func() {}, nil
}

// first returns the first text that is not empty.
func first(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}
