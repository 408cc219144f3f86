package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// service is one gRPC server that can be stopped, started again on the same port, frozen and thawed.
type service struct {
	name        string
	address     string
	register    func(*grpc.Server)
	faults      *faults
	credentials credentials.TransportCredentials

	mu       sync.Mutex
	listener net.Listener
	server   *grpc.Server
	gate     gate
}

func (s *service) listen(address string) error {
	listener, err := net.Listen("tcp", address)
	if err == nil {
		s.listener, s.address = listener, listener.Addr().String()
	}
	return err
}

func (s *service) serve() {
	options := []grpc.ServerOption{
		grpc.UnaryInterceptor(s.faults.unary(s)),
		grpc.MaxRecvMsgSize(64 << 20), grpc.MaxSendMsgSize(64 << 20),
	}
	if s.credentials != nil {
		options = append(options, grpc.Creds(s.credentials))
	}
	s.server = grpc.NewServer(options...)
	s.register(s.server)
	go s.server.Serve(&gatedListener{Listener: s.listener, service: s})
}

// stop refuses new connections and breaks those that are open, as the end of the process does.
func (s *service) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil {
		s.gate.set(false)
		s.gate.breakAll()
		s.server.Stop()
		s.server = nil
	}
}

func (s *service) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil {
		return errors.New("runs already")
	}
	if err := s.listen(s.address); err != nil {
		return err
	}
	s.serve()
	return nil
}

// gate holds up all connections while it is closed: peers see an open connection and silence.
type gate struct {
	mu          sync.Mutex
	opened      chan struct{}
	connections map[string]net.Conn
}

func (g *gate) set(frozen bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case frozen && g.opened == nil:
		g.opened = make(chan struct{})
	case !frozen && g.opened != nil:
		close(g.opened)
		g.opened = nil
	}
}

func (g *gate) wait() {
	g.mu.Lock()
	opened := g.opened
	g.mu.Unlock()
	if opened != nil {
		<-opened
	}
}

func (g *gate) add(connection net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.connections == nil {
		g.connections = map[string]net.Conn{}
	}
	g.connections[connection.RemoteAddr().String()] = connection
}

func (g *gate) remove(remote string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.connections, remote)
}

// breakOne ends the connection from a remote address without a word.
func (g *gate) breakOne(remote string) {
	g.mu.Lock()
	connection := g.connections[remote]
	g.mu.Unlock()
	if connection != nil {
		connection.Close()
	}
}

func (g *gate) breakAll() {
	g.mu.Lock()
	var all []net.Conn
	for _, connection := range g.connections {
		all = append(all, connection)
	}
	g.mu.Unlock()
	for _, connection := range all {
		connection.Close()
	}
}

type gatedListener struct {
	net.Listener
	service *service
}

func (l *gatedListener) Accept() (net.Conn, error) {
	connection, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.service.gate.add(connection)
	return &gatedConnection{Conn: connection, gate: &l.service.gate}, nil
}

type gatedConnection struct {
	net.Conn
	gate *gate
}

func (c *gatedConnection) Read(into []byte) (int, error) {
	n, err := c.Conn.Read(into)
	c.gate.wait()
	return n, err
}

func (c *gatedConnection) Write(from []byte) (int, error) {
	c.gate.wait()
	return c.Conn.Write(from)
}

func (c *gatedConnection) Close() error {
	c.gate.remove(c.RemoteAddr().String())
	return c.Conn.Close()
}

// transportCredentials is mutual TLS, or none at all.
func transportCredentials(ca, certificate, key string) (credentials.TransportCredentials, error) {
	if ca == "" && certificate == "" && key == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in " + ca)
	}
	return credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: authorities, ClientAuth: tls.RequireAndVerifyClientCert,
	}), nil
}
