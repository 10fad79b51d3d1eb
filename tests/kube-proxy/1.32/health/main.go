// Prints what kube-proxy answers over HTTP: its health checks, raw, and its metrics in one of
// its modes, before anything has happened.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-base/metrics/legacyregistry"
	kubeproxyconfig "k8s.io/kubernetes/pkg/proxy/apis/config"
	"k8s.io/kubernetes/pkg/proxy/healthcheck"
	"k8s.io/kubernetes/pkg/proxy/metrics"
	proxyutil "k8s.io/kubernetes/pkg/proxy/util"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// freePort is one that nobody listens at a moment later either, mostly.
func freePort() int {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func ask(title string, port int, request string) {
	var connection net.Conn
	err := errors.New("not asked")
	for attempt := 0; err != nil && attempt < 100; attempt++ {
		connection, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			time.Sleep(20 * time.Millisecond)
		}
	}
	check(err)
	defer connection.Close()
	_, err = fmt.Fprintf(connection, "%s HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n", request)
	check(err)
	answer, err := io.ReadAll(connection)
	check(err)
	fmt.Printf("== %s: %s\n%s\n", title, request, strings.ReplaceAll(string(answer), "\r\n", "\n"))
}

func answers() {
	healthzPort, servicePort := freePort(), freePort()
	health := healthcheck.NewProxierHealthServer(fmt.Sprintf("127.0.0.1:%d", healthzPort), time.Millisecond)
	go func() { check(health.Run(context.Background())) }()
	addresses := proxyutil.NewNodePortAddresses(v1.IPv4Protocol, []string{"127.0.0.0/8"})
	services := healthcheck.NewServiceHealthServer("node", nil, addresses, health)
	name := types.NamespacedName{Namespace: "shop", Name: "web"}
	endpoints := func(count int) {
		check(services.SyncServices(map[types.NamespacedName]uint16{name: uint16(servicePort)}))
		check(services.SyncEndpoints(map[types.NamespacedName]int{name: count}))
	}
	ask("starting", healthzPort, "GET /healthz")
	health.Updated(v1.IPv4Protocol)
	endpoints(2)
	ask("two endpoints", servicePort, "GET /")
	ask("two endpoints", servicePort, "HEAD /anything")
	ask("two endpoints", servicePort, "POST /healthz")
	endpoints(0)
	ask("no endpoint", servicePort, "GET /")
	endpoints(1)
	ask("synced", healthzPort, "GET /healthz")
	ask("synced", healthzPort, "GET /livez")
	ask("synced", healthzPort, "POST /livez")
	ask("synced", healthzPort, "GET /other")
	health.SyncNode(&v1.Node{Spec: v1.NodeSpec{Taints: []v1.Taint{{Key: healthcheck.ToBeDeletedTaint}}}})
	ask("tainted", healthzPort, "GET /healthz")
	ask("tainted", healthzPort, "GET /livez")
	ask("tainted", servicePort, "GET /")
	now := metav1.Now()
	health.SyncNode(&v1.Node{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}})
	ask("deleted", healthzPort, "GET /healthz")
	health.SyncNode(&v1.Node{})
	health.QueuedUpdate(v1.IPv4Protocol)
	time.Sleep(10 * time.Millisecond)
	ask("overdue", healthzPort, "GET /healthz")
	ask("overdue", healthzPort, "GET /livez")
	ask("overdue", servicePort, "GET /")
}

func exposition(mode string) {
	metrics.RegisterMetrics(kubeproxyconfig.ProxyMode(mode))
	for _, code := range []string{"200", "503"} {
		metrics.ProxyHealthzTotal.WithLabelValues(code)
		metrics.ProxyLivezTotal.WithLabelValues(code)
	}
	for _, policy := range []string{"internal", "external"} {
		metrics.SyncProxyRulesNoLocalEndpointsTotal.WithLabelValues(policy)
	}
	for _, table := range []string{"filter", "nat"} {
		metrics.IPTablesRulesTotal.WithLabelValues(table)
		metrics.IPTablesRulesLastSync.WithLabelValues(table)
	}
	recorder := httptest.NewRecorder()
	legacyregistry.Handler().ServeHTTP(recorder, httptest.NewRequest("GET", "/metrics", nil))
	fmt.Printf("# Content-Type: %s\n", recorder.Header().Get("Content-Type"))
	for _, line := range strings.Split(recorder.Body.String(), "\n") {
		if strings.Contains(line, "kubeproxy_") && !strings.Contains(line, "kubeproxy_iptables_") {
			fmt.Println(line)
		}
	}
}

func main() {
	if len(os.Args) > 1 {
		exposition(os.Args[1])
	} else {
		answers()
	}
}
