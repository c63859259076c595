package suitetest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// The environment of this program when connectconformance starts it.
const (
	connectMode    = "BIJOU_SUITES_CONNECT"         // "server" or "client", see connectRuns
	connectProgram = "BIJOU_SUITES_CONNECT_PROGRAM" // the path of the reference server or client
	connectTo      = "BIJOU_SUITES_CONNECT_TO"      // the scheme of the edge's target
	connectWeb     = "BIJOU_SUITES_CONNECT_WEB"     // true: the edge makes calls of gRPC of those of gRPC-Web
)

// connectRuns are the runs of connectconformance. As "server" it calls the reference server behind an edge, and judges
// what comes back. As "client" it has the reference client call its own server through an edge, and judges what the
// server gets and what the client makes of responses that are odd or wrong.
var connectRuns = []struct {
	name   string
	mode   string
	to     string // the scheme of the edge's target; empty: as the client speaks
	web    bool   // the edge makes calls of gRPC of those of gRPC-Web
	config string // which features are tested, in YAML
	cases  int    // so many pass, at least
}{
	{
		name: "server with HTTP 2", mode: "server", to: "h2c", cases: 10756,
		config: `versions: [HTTP_VERSION_1, HTTP_VERSION_2]
  protocols: [PROTOCOL_CONNECT, PROTOCOL_GRPC, PROTOCOL_GRPC_WEB]
` + compressions + `
  supportsTlsClientCerts: true
  supportsHalfDuplexBidiOverHttp1: true`,
	},
	{
		// A server with HTTP/1.1 gets no calls of gRPC, and none that send and receive at the same time.
		name: "server with HTTP 1.1", mode: "server", to: "http", cases: 6992,
		config: `versions: [HTTP_VERSION_1, HTTP_VERSION_2]
  protocols: [PROTOCOL_CONNECT, PROTOCOL_GRPC_WEB]
  streamTypes: [STREAM_TYPE_UNARY, STREAM_TYPE_CLIENT_STREAM, STREAM_TYPE_SERVER_STREAM]
` + compressions,
	},
	{
		name: "server for gRPC-Web as gRPC", mode: "server", to: "h2c", web: true, cases: 3538,
		config: `versions: [HTTP_VERSION_1, HTTP_VERSION_2]
  protocols: [PROTOCOL_GRPC_WEB]
` + compressions,
	},
	{
		name: "client", mode: "client", cases: 6451,
		config: `versions: [HTTP_VERSION_1, HTTP_VERSION_2]
  protocols: [PROTOCOL_CONNECT, PROTOCOL_GRPC, PROTOCOL_GRPC_WEB]
  supportsTls: false
` + compressions,
	},
}

const compressions = `  compressions: [COMPRESSION_IDENTITY, COMPRESSION_GZIP, COMPRESSION_BR, COMPRESSION_ZSTD,
    COMPRESSION_DEFLATE, COMPRESSION_SNAPPY]`

func TestConnectConformance(t *testing.T) {
	suite := program(t, "connectconformance")
	for _, c := range connectRuns {
		t.Run(c.name, func(t *testing.T) {
			conf := filepath.Join(t.TempDir(), "conf.yaml")
			if err := os.WriteFile(conf, []byte("features:\n  "+c.config+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			args := []string{"--mode", c.mode, "--conf", conf, "--max-servers", "2"}
			cmd := exec.CommandContext(t.Context(), suite, append(args, "--", os.Args[0])...)
			cmd.Env = append(os.Environ(), connectMode+"="+c.mode, connectProgram+"="+program(t, "reference"+c.mode),
				connectTo+"="+c.to, connectWeb+"="+strconv.FormatBool(c.web))
			out, err := run(t, cmd)
			passed := regexp.MustCompile(`(?m)^(\d+) passed`).FindStringSubmatch(out)
			if err != nil || passed == nil {
				t.Fatalf("connectconformance ended with %v and wrote:\n%s", err, out)
			}
			if n, _ := strconv.Atoi(passed[1]); n < c.cases { // the pattern has digits only
				t.Errorf("%d cases passed, want at least %d", n, c.cases)
			}
			t.Log(strings.TrimSpace(out[max(0, strings.LastIndex(out, "Total")):]))
		})
	}
}

// Fields of messages of connectconformance, whose Go package is internal: ServerCompatRequest, TLSCreds,
// ServerCompatResponse and ClientCompatRequest.
const (
	requestHTTPVersion, requestTLS, requestClientCert, requestCerts = 2, 4, 5, 7
	certsCert, certsKey                                             = 1, 2
	responseHost, responsePort, responseCert                        = 1, 2, 3
	callHTTPVersion, callHost, callPort                             = 2, 6, 7

	httpVersion1, httpVersion2 = 1, 2
)

// beConnect is what connectconformance starts.
func beConnect(mode string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM) //nolint:forbidigo // this is a main
	defer stop()
	c := exec.CommandContext(ctx, os.Getenv(connectProgram))
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = 3 * time.Second
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		return err
	}
	if mode == "client" {
		c.Stdout = os.Stdout
		if err := c.Start(); err != nil {
			return err
		}
		return errors.Join(beClient(in), in.Close(), c.Wait())
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	defer func() {
		stop()
		_ = c.Wait() // it was told to end
	}()
	return beServer(ctx, in, out)
}

// beClient passes calls on to the reference client, and has it make them through an edge for each server and version of
// HTTP.
func beClient(to io.Writer) (err error) {
	edges := map[string]*edge{} // by the URL of the target
	defer func() {
		for _, e := range edges {
			err = errors.Join(err, e.stop())
		}
	}()
	for {
		text, err := readMessage(os.Stdin)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		fields, err := fieldsOf(text)
		if err != nil {
			return err
		}
		scheme := "http"
		if v, _ := protowire.ConsumeVarint(fields[callHTTPVersion]); v == httpVersion2 {
			scheme = "h2c"
		}
		port, _ := protowire.ConsumeVarint(fields[callPort])
		target := fmt.Sprintf("%s://%s:%d", scheme, fields[callHost], port)
		if edges[target] == nil {
			if edges[target], err = startEdge(`[{"name":"rpc","to":[{"url":"`+target+`"}]}]`, ""); err != nil {
				return err
			}
		}
		text, err = withAddress(without(text, callHost, callPort), callHost, callPort, edges[target].plain)
		if err != nil {
			return err
		}
		if err := writeMessage(to, text); err != nil {
			return err
		}
	}
}

// beServer reads what is wanted of it, starts the reference server and an edge before it, writes where the edge is, and
// serves until it is told to end.
func beServer(ctx context.Context, in io.Writer, out io.Reader) error {
	text, err := readMessage(os.Stdin)
	if err != nil {
		return err
	}
	want, err := fieldsOf(text)
	if err != nil {
		return err
	}
	// TLS ends at the edge. The reference server speaks all protocols and, without TLS, both versions of HTTP.
	version := uint64(httpVersion2)
	if os.Getenv(connectTo) == "http" {
		version = httpVersion1
	}
	text = without(text, requestHTTPVersion, requestTLS, requestClientCert, requestCerts)
	text = protowire.AppendVarint(protowire.AppendTag(text, requestHTTPVersion, protowire.VarintType), version)
	addr, err := startOrigin(in, out, text)
	if err != nil {
		return err
	}
	certs, cert := "", []byte(nil)
	if len(want[requestCerts]) > 0 {
		pair, err := fieldsOf(want[requestCerts])
		if err != nil {
			return err
		}
		if certs, err = os.MkdirTemp("", "edge"); err != nil {
			return err
		}
		defer os.RemoveAll(certs)
		cert = pair[certsCert]
		if err := writeCertificate(certs, cert, pair[certsKey]); err != nil {
			return err
		}
	}
	clients := ""
	if ca := want[requestClientCert]; len(ca) > 0 {
		text, err := json.Marshal(string(ca))
		if err != nil {
			return err
		}
		clients = `,"clientCert":{"ca":` + string(text) + `}`
	}
	e, err := startEdge(fmt.Sprintf(`[{"name":"rpc","to":[{"url":"%s://%s"}],"grpcWeb":%s%s}]`,
		os.Getenv(connectTo), addr, os.Getenv(connectWeb), clients), certs)
	if err != nil {
		return err
	}
	at := e.plain
	if certs != "" {
		at = e.secure
	}
	res, err := withAddress(nil, responseHost, responsePort, at)
	if err == nil && certs != "" {
		res = protowire.AppendBytes(protowire.AppendTag(res, responseCert, protowire.BytesType), cert)
	}
	if err == nil {
		err = writeMessage(os.Stdout, res)
	}
	if err == nil {
		<-ctx.Done()
	}
	return errors.Join(err, e.stop())
}

// startOrigin tells the reference server what it shall do, and returns its address.
func startOrigin(in io.Writer, out io.Reader, request []byte) (string, error) {
	if err := writeMessage(in, request); err != nil {
		return "", err
	}
	text, err := readMessage(out)
	if err != nil {
		return "", err
	}
	at, err := fieldsOf(text)
	if err != nil {
		return "", err
	}
	port, _ := protowire.ConsumeVarint(at[responsePort])
	return net.JoinHostPort(string(at[responseHost]), strconv.FormatUint(port, 10)), nil
}

// without returns a message without some of its fields.
func without(text []byte, fields ...protowire.Number) []byte {
	var out []byte
	for len(text) > 0 {
		number, _, n := protowire.ConsumeField(text) // fieldsOf has checked it
		if !slices.Contains(fields, number) {
			out = append(out, text[:n]...)
		}
		text = text[n:]
	}
	return out
}

// withAddress appends an address to a message.
func withAddress(text []byte, hostField, portField protowire.Number, addr string) ([]byte, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	text = protowire.AppendString(protowire.AppendTag(text, hostField, protowire.BytesType), host)
	return protowire.AppendVarint(protowire.AppendTag(text, portField, protowire.VarintType), n), nil
}

// fieldsOf returns the fields of a message by their numbers: the content of bytes and strings, and others as encoded.
func fieldsOf(text []byte) (map[protowire.Number][]byte, error) {
	fields := map[protowire.Number][]byte{}
	for len(text) > 0 {
		number, kind, tag := protowire.ConsumeTag(text)
		if tag < 0 {
			return nil, protowire.ParseError(tag)
		}
		n := protowire.ConsumeFieldValue(number, kind, text[tag:])
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		value := text[tag : tag+n]
		if kind == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(value)
		}
		fields[number] = value
		text = text[tag+n:]
	}
	return fields, nil
}

// readMessage reads a message with its length before it.
func readMessage(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > 1<<20 {
		return nil, fmt.Errorf("reading a message of connectconformance: it has %d bytes", n)
	}
	text := make([]byte, n)
	_, err := io.ReadFull(r, text)
	return text, err
}

func writeMessage(w io.Writer, text []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...))
	return err
}
