package forward

// Frames returns how many bytes of WebSocket frames pieces hold up to the end of the last whole one.
func Frames(pieces [][]byte) (whole int) {
	var f frames
	at := 0
	for _, p := range pieces {
		for len(p) > 0 {
			n := f.pass(p)
			p, at = p[n:], at+n
			if f.between() {
				whole = at
			}
		}
	}
	return whole
}
