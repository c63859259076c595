package trace

import (
	"strings"

	"bijou.dev/platform/text"
)

// Limits of what one span may carry. Protobuf refuses text that is not UTF-8, and with it the whole batch; a server
// refuses messages that are too large. So text is repaired and cut before it is sent. The trace store has the same
// limits.
const (
	maxName  = 512     // bytes of a name or a key
	maxValue = 4 << 10 // bytes of a value
	maxList  = 256     // elements of a list or map in one value
	maxDepth = 32      // lists and maps inside of each other
)

// boundState returns as many whole members of a tracestate as fit: half of one would be another member, or none.
func boundState(list string) string {
	if len(list) > maxValue {
		list = list[:max(0, strings.LastIndexByte(list[:maxValue+1], ','))]
	}
	return text.Bound(list, maxValue)
}
