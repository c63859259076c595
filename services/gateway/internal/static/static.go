// Package static serves the files of a folder.
package static

import (
	"errors"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"syscall"

	"bijou.dev/services/gateway/internal/accept"
)

// Folder says what is served and how. Dir is required.
type Folder struct {
	// Dir is the folder. It is opened for each request, so it may be replaced as a whole. Links out of it are not
	// followed.
	Dir string
	// Index is the file that is served for a folder. Empty: folders are not found.
	Index string
	// Fallback is the file that is served for a path that has none. Empty: such paths are not found.
	Fallback string
	// Precompressed serves FILE.br, FILE.zst or FILE.gz in place of FILE to clients that accept it, unless it is older.
	Precompressed bool
}

// Errors of Serve, with which nothing was written.
var (
	// ErrNotFound: there is no such file, or it may not be served.
	ErrNotFound = errors.New("there is no such file")
	// ErrMethod: the method is neither GET nor HEAD.
	ErrMethod = errors.New("files can be read only")
)

// Serve answers with the file at name: a path below the folder without escapes, which begins with a slash and has no
// empty and no dot segments. Names that begin with a dot, other than .well-known (RFC 8615), are not found. Answers
// have an ETag; conditions and ranges are http.ServeContent's. A path of a folder without the final slash is
// redirected. Another error than those above means that the folder or the file cannot be read.
func (f *Folder) Serve(w http.ResponseWriter, r *http.Request, name string) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return ErrMethod
	}
	root, err := os.OpenRoot(f.Dir)
	if err != nil {
		return fmt.Errorf("opening the folder: %w", err)
	}
	defer func() { _ = root.Close() }() // nothing was written to it
	err = f.serve(w, r, root, name)
	if errors.Is(err, ErrNotFound) && f.Fallback != "" {
		err = f.serveFile(w, r, root, f.Fallback)
	}
	return err
}

func (f *Folder) serve(w http.ResponseWriter, r *http.Request, root *os.Root, name string) error {
	for segment := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(segment, ".") && segment != ".well-known" {
			return ErrNotFound
		}
	}
	file := strings.Trim(name, "/")
	folder := file == ""
	if !folder {
		info, err := root.Stat(file)
		if err != nil {
			return notFound(err)
		}
		folder = info.IsDir()
	}
	switch {
	case folder && f.Index == "", !folder && strings.HasSuffix(name, "/"):
		return ErrNotFound
	case folder && !strings.HasSuffix(name, "/"):
		redirect(w, r)
		return nil
	case folder:
		file = path.Join(file, f.Index)
	}
	return f.serveFile(w, r, root, file)
}

// redirect adds the slash, so that relative links of the index work. The location is relative: whatever is before the
// last segment may have been taken off.
func redirect(w http.ResponseWriter, r *http.Request) {
	to := url.URL{Path: "./" + path.Base(r.URL.Path) + "/", RawQuery: r.URL.RawQuery}
	w.Header().Set("Location", to.String())
	w.WriteHeader(http.StatusPermanentRedirect)
}

// suffixes of precompressed files.
var suffixes = map[string]string{"br": ".br", "zstd": ".zst", "gzip": ".gz"}

func (f *Folder) serveFile(w http.ResponseWriter, r *http.Request, root *os.Root, name string) error {
	file, info, err := open(root, name)
	if err != nil {
		return err
	}
	defer file.Close()
	h := w.Header()
	h.Set("Content-Type", typeOf(name))
	h.Set("X-Content-Type-Options", "nosniff")
	encoding := ""
	if f.Precompressed {
		h.Add("Vary", "Accept-Encoding")
		for _, coding := range accept.Encodings(r.Header["Accept-Encoding"], "br", "zstd", "gzip") { // the smallest first
			small, smallInfo, err := open(root, name+suffixes[coding])
			if err != nil {
				continue
			}
			defer small.Close()
			if !smallInfo.ModTime().Before(info.ModTime()) {
				h.Set("Content-Encoding", coding)
				file, info, encoding = small, smallInfo, "-"+coding
				break
			}
		}
	}
	h.Set("ETag", fmt.Sprintf(`"%x-%x%s"`, info.ModTime().UnixNano(), info.Size(), encoding))
	http.ServeContent(w, r, "", info.ModTime(), file)
	return nil
}

// open opens a regular file.
func open(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
	info, err := root.Stat(name) // before opening: opening a pipe would wait for its writer
	if err != nil {
		return nil, nil, notFound(err)
	}
	if !info.Mode().IsRegular() {
		return nil, nil, ErrNotFound
	}
	file, err := root.Open(name)
	if err != nil {
		return nil, nil, notFound(err)
	}
	return file, info, nil
}

// notFound is ErrNotFound for errors that mean that there is no such file for a stranger: it is missing, its name is
// not possible, it is behind a file, or behind a link out of the folder.
func notFound(err error) error {
	if errno, ok := errors.AsType[*fs.PathError](err); ok && !errors.Is(err, fs.ErrPermission) && !isIO(errno.Err) {
		return ErrNotFound
	}
	return fmt.Errorf("reading a file: %w", err)
}

// types of files that Go does not know without a list of the operating system, which images have not.
var types = map[string]string{
	".csv": "text/csv; charset=utf-8", ".ico": "image/x-icon", ".map": "application/json",
	".md": "text/markdown; charset=utf-8", ".mp3": "audio/mpeg", ".mp4": "video/mp4", ".txt": "text/plain; charset=utf-8",
	".webm": "video/webm", ".webmanifest": "application/manifest+json", ".woff": "font/woff", ".woff2": "font/woff2",
	".zip": "application/zip",
}

// typeOf is the type of a file by its name. What it does not know is a download: guessing by content could make a page
// out of a file that a stranger has stored.
func typeOf(name string) string {
	ext := strings.ToLower(path.Ext(name))
	if t := types[ext]; t != "" {
		return t
	}
	if t := mime.TypeByExtension(ext); t != "" {
		return t
	}
	return "application/octet-stream"
}

// isIO reports whether an error of the operating system is about the disk or the process, and not about the name.
func isIO(err error) bool {
	return errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}
