package span

import "encoding/binary"

// fields calls fn for each field of an encoded protobuf message: v has the value of numbers, s of bytes and messages.
// It reads strings, where protowire reads bytes: so the texts of all spans can share the memory of one string.
func fields(m string, fn func(num int, v uint64, s string) error) error {
	for len(m) > 0 {
		tag, n := uvarint(m)
		if n == 0 || tag>>3 == 0 {
			return errWire
		}
		m = m[n:]
		var v uint64
		var s string
		switch tag & 7 {
		case 0:
			if v, n = uvarint(m); n == 0 {
				return errWire
			}
		case 1, 5:
			n = 8
			if tag&7 == 5 {
				n = 4
			}
			if len(m) < n {
				return errWire
			}
			for i := n - 1; i >= 0; i-- {
				v = v<<8 | uint64(m[i])
			}
		case 2:
			size, k := uvarint(m)
			if k == 0 || size > uint64(len(m)-k) {
				return errWire
			}
			s, n = m[k:k+int(size)], k+int(size)
		default:
			return errWire
		}
		m = m[n:]
		if err := fn(int(tag>>3), v, s); err != nil {
			return err
		}
	}
	return nil
}

// uvarint reads a varint and its length, which is 0 if there is no valid one.
func uvarint(m string) (v uint64, n int) {
	for i := 0; i < len(m) && i < binary.MaxVarintLen64; i++ {
		v |= uint64(m[i]&0x7f) << (7 * i)
		if m[i] < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}
