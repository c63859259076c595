package stack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"bijou.dev/cmd/bijou/internal/proc"
	"bijou.dev/platform/errs"
)

// Each line of a log file has the time at which it was written, a mark, and the text. A file of more than fullLog bytes
// is renamed to <name>.log.1 and a new one begins, so that an instance has at most twice this much.
const (
	fullLog    = 16 << 20
	timeLayout = "2006-01-02T15:04:05.000000Z"
	markOutput = " | "
	markNote   = " * "
)

// logs writes the log files of a run and calls output with each line.
type logs struct {
	dir    string
	output func(Line)

	mu    sync.Mutex
	files map[string]*logFile // instance -> file
}

type logFile struct {
	*os.File
	size int64
}

func openLogs(dir string, output func(Line)) (*logs, error) {
	// Remove the logs of the last run.
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("emptying %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making %s: %w", dir, err)
	}
	return &logs{dir: dir, output: output, files: map[string]*logFile{}}, nil
}

// writer takes the output of an instance's processes.
func (l *logs) writer(instance string) io.Writer {
	return &proc.Lines{Line: func(line []byte) { l.add(Line{Instance: instance, Text: string(line)}) }}
}

func (l *logs) note(instance, text string) { l.add(Line{Instance: instance, Text: text, Note: true}) }

func (l *logs) add(line Line) {
	line.Time = time.Now().UTC()
	mark := markOutput
	if line.Note {
		mark = markNote
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if file := l.fileLocked(line.Instance); file != nil {
		n, _ := fmt.Fprintf(file, "%s%s%s\n", line.Time.Format(timeLayout), mark, line.Text)
		file.size += int64(n)
	}
	l.output(line)
}

// fileLocked returns the file of an instance, or nil when it cannot be written: a full disk must not end the stack.
func (l *logs) fileLocked(instance string) *logFile {
	file := l.files[instance]
	name := logName(l.dir, instance)
	if file != nil && file.size > fullLog {
		_ = file.Close()
		_ = os.Rename(name, name+".1")
		file = nil
	}
	if file == nil {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return nil
		}
		file = &logFile{File: f}
		l.files[instance] = file
	}
	return file
}

func (l *logs) close() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, file := range l.files {
		_ = file.Close()
	}
}

func logName(dir, instance string) string { return filepath.Join(dir, instance+".log") }

// ReadLogs returns the last lines of the logs in a stack's folder, in the order they came, at most limit (0: all).
// Names are instances or services; none means all.
func ReadLogs(dir string, limit int, names ...string) ([]Line, error) {
	lines, _, err := readLogs(dir, names, nil)
	if limit > 0 && len(lines) > limit {
		lines = lines[len(lines)-limit:]
	}
	return lines, err
}

// FollowLogs calls line for the last lines, as [ReadLogs] returns them, and then for each new one until ctx ends.
func FollowLogs(ctx context.Context, dir string, limit int, line func(Line), names ...string) error {
	lines, offsets, err := readLogs(dir, names, nil)
	if limit > 0 && len(lines) > limit {
		lines = lines[len(lines)-limit:]
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for err == nil {
		for _, l := range lines {
			line(l)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		lines, offsets, err = readLogs(dir, names, offsets)
	}
	return err
}

// readLogs reads each log from its offset on and returns the lines in the order of their times, and the offsets after
// the lines. Without offsets it reads the file before the current one, too.
func readLogs(dir string, names []string, offsets map[string]int64) ([]Line, map[string]int64, error) {
	instances, err := loggedInstances(filepath.Join(dir, "logs"), names)
	if err != nil {
		return nil, nil, err
	}
	next := map[string]int64{}
	var lines []Line
	for _, instance := range instances {
		name := logName(filepath.Join(dir, "logs"), instance)
		offset := offsets[instance]
		// A file that is shorter than the offset is a new one: the old one got another name after we read it.
		if isNew := fileSize(name) < offset; offsets == nil || isNew {
			if lines, _, err = readLog(name+".1", instance, offset, lines); err != nil {
				return nil, nil, err
			}
			offset = 0
		}
		if lines, next[instance], err = readLog(name, instance, offset, lines); err != nil {
			return nil, nil, err
		}
	}
	slices.SortStableFunc(lines, func(a, b Line) int { return a.Time.Compare(b.Time) })
	return lines, next, nil
}

func loggedInstances(dir string, names []string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.Errorf(errs.NotFound, "there are no logs in %s: `bijou up` writes them", dir)
	} else if err != nil {
		return nil, fmt.Errorf("reading logs: %w", err)
	}
	var all []string
	found := map[string]bool{}
	for _, e := range entries {
		instance, ok := strings.CutSuffix(e.Name(), ".log")
		if !ok {
			continue
		}
		service := instance[:max(0, strings.LastIndexByte(instance, '-'))]
		if len(names) == 0 || slices.Contains(names, instance) || slices.Contains(names, service) {
			all = append(all, instance)
		}
		found[instance], found[service] = true, true
	}
	for _, name := range names {
		if !found[name] {
			return nil, fmt.Errorf("%w: there is no log of %q in %s; `bijou status` lists instances", ErrNoInstance,
				name, dir)
		}
	}
	return all, nil
}

// fileSize is the size of a file, 0 if there is none.
func fileSize(name string) int64 {
	info, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return info.Size()
}

// readLog appends the complete lines of one file from offset on, and returns the offset after them.
func readLog(name, instance string, offset int64, lines []Line) ([]Line, int64, error) {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return lines, 0, nil
	} else if err != nil {
		return nil, 0, fmt.Errorf("reading logs: %w", err)
	}
	defer file.Close()
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return nil, 0, fmt.Errorf("reading logs: %w", err)
	}
	for r := bufio.NewReader(file); ; {
		text, err := r.ReadString('\n')
		if err != nil { // the end of the file; text may be the start of a line that is not complete yet
			return lines, offset, nil
		}
		offset += int64(len(text))
		if line, ok := parseLine(instance, strings.TrimSuffix(text, "\n")); ok {
			lines = append(lines, line)
		}
	}
}

func parseLine(instance, text string) (Line, bool) {
	head := len(timeLayout)
	if len(text) < head+len(markNote) {
		return Line{}, false
	}
	at, err := time.Parse(timeLayout, text[:head])
	mark := text[head : head+len(markNote)]
	return Line{Time: at, Instance: instance, Text: text[head+len(markNote):], Note: mark == markNote}, err == nil
}
