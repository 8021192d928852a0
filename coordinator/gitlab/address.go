package gitlab

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// Dir is the name of a project's directory on every host.
func Dir(instance string, project int64) string {
	sum := sha256.Sum256([]byte("roost workspace\x00" + instance + "\x00" + strconv.FormatInt(project, 10)))
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:]))[:26]
}

// Instance is how a server is named in keys and projects: host, port and path of its
// address, without what says nothing. Two spellings of one address give one name.
func Instance(address string) (string, error) {
	u, err := parseURL(address)
	if err != nil {
		return "", err
	}
	return u.Host + u.Path, nil
}

// Normal is the one spelling of a server's address: no trailing / or /ci, as runners
// do it, and no port that goes without saying.
func Normal(address string) (string, error) {
	u, err := parseURL(address)
	if err != nil {
		return "", err
	}
	return u.String(), nil
}

func parseURL(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%.200q is not the address of a GitLab: want https://HOST or http://HOST", address)
	}
	host, port := strings.ToLower(u.Hostname()), u.Port()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port != "" && (u.Scheme != "http" || port != "80") && (u.Scheme != "https" || port != "443") {
		host += ":" + port
	}
	path := strings.TrimRight(u.Path, "/")
	path = strings.TrimRight(strings.TrimSuffix(path, "/ci"), "/")
	return &url.URL{Scheme: u.Scheme, Host: host, Path: path}, nil
}
