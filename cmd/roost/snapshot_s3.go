package main

import (
	"errors"
	"net/url"
)

func openS3(*url.URL) (depot, func(), error) {
	return nil, nil, usageError(errors.New("s3:// is known, not supported yet"), "push to a directory or to a blob server")
}
