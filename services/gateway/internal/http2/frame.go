package http2

import (
	"encoding/binary"
	"fmt"
)

// Types and flags of frames (RFC 9113, 6).
const (
	frameData, frameHeaders, framePriority, frameReset, frameSettings = 0x0, 0x1, 0x2, 0x3, 0x4
	framePush, framePing, frameGoAway, frameWindow, frameContinuation = 0x5, 0x6, 0x7, 0x8, 0x9

	flagEndStream, flagAck, flagEndHeaders, flagPadded, flagPriority = 0x1, 0x1, 0x4, 0x8, 0x20
)

// Settings (RFC 9113, 6.5.2).
const (
	settingTableSize, settingPush, settingStreams, settingWindow, settingFrame, settingFields = 1, 2, 3, 4, 5, 6

	settingConnect = 8 // a client may use CONNECT with a protocol (RFC 8441, 3)
)

// code is an error code (RFC 9113, 7).
type code uint32

const (
	codeNo code = iota
	codeProtocol
	codeInternal
	codeFlowControl
	codeSettingsTimeout
	codeClosed
	codeFrameSize
	codeRefused
	codeCancel
	codeCompression
	codeConnect
	codeCalm
)

const (
	headSize    = 9
	maxFrame    = 16 << 10 // bytes of payload, both ways: the least that each side must take
	maxWindow   = 1<<31 - 1
	firstWindow = 1<<16 - 1 // of a connection and of streams, until they are changed
	tableSize   = 4 << 10   // bytes of the dynamic table of HPACK, both ways
)

// frameHead is the head of a frame.
type frameHead struct {
	length int
	kind   byte
	flags  byte
	stream uint32
}

// parseHead reads a head from the first headSize bytes of p.
func parseHead(p []byte) frameHead {
	return frameHead{
		length: int(p[0])<<16 | int(p[1])<<8 | int(p[2]), kind: p[3], flags: p[4],
		stream: binary.BigEndian.Uint32(p[5:]) & maxWindow,
	}
}

func (h frameHead) has(flag byte) bool { return h.flags&flag != 0 }

// appendHead writes the head of a frame.
func appendHead(b []byte, length int, kind, flags byte, stream uint32) []byte {
	b = append(b, byte(length>>16), byte(length>>8), byte(length), kind, flags)
	return binary.BigEndian.AppendUint32(b, stream)
}

func appendReset(b []byte, stream uint32, c code) []byte {
	return binary.BigEndian.AppendUint32(appendHead(b, 4, frameReset, 0, stream), uint32(c))
}

func appendWindow(b []byte, stream uint32, n int64) []byte {
	return binary.BigEndian.AppendUint32(appendHead(b, 4, frameWindow, 0, stream), uint32(n))
}

func appendGoAway(b []byte, last uint32, c code) []byte {
	b = binary.BigEndian.AppendUint32(appendHead(b, 8, frameGoAway, 0, 0), last)
	return binary.BigEndian.AppendUint32(b, uint32(c))
}

func appendPing(b []byte, flags byte, data []byte) []byte {
	return append(appendHead(b, len(data), framePing, flags, 0), data...)
}

// setting is one of a frame of settings.
type setting struct {
	id    uint16
	value uint32
}

func appendSettings(b []byte, list ...setting) []byte {
	b = appendHead(b, 6*len(list), frameSettings, 0, 0)
	for _, s := range list {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(b, s.id), s.value)
	}
	return b
}

// connError ends a connection: the other side has broken a rule that streams share.
type connError struct {
	code   code
	reason string
}

// Error implements error.
func (e *connError) Error() string { return fmt.Sprintf("HTTP/2 error %d: %s", e.code, e.reason) }

func broke(c code, reason string) error { return &connError{c, reason} }

// streamError ends a stream: the other side has broken a rule about it.
type streamError struct {
	stream uint32
	code   code
	reason string
}

// Error implements error.
func (e *streamError) Error() string {
	return fmt.Sprintf("HTTP/2 stream error %d: %s", e.code, e.reason)
}

// resetError says that the other side has reset a stream.
type resetError struct{ code code }

// Error implements error.
func (e *resetError) Error() string {
	return fmt.Sprintf("the stream was reset with HTTP/2 error %d", e.code)
}
