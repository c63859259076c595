package cli

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

func linuxMemory() (int64, error) {
	const file = "/proc/meminfo"
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("reading memory: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemTotal:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("no MemTotal in " + file)
}
