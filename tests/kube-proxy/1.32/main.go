// Runs the proxier of kube-proxy over one scene and prints the rules that it leaves in the
// kernel: what iptables-save and ip6tables-save say.
//
// It has to run in a network namespace of its own; record.sh makes one.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/kubernetes/pkg/proxy"
	"k8s.io/kubernetes/pkg/proxy/iptables"
	proxyutil "k8s.io/kubernetes/pkg/proxy/util"
	utiliptables "k8s.io/kubernetes/pkg/util/iptables"
	utilexec "k8s.io/utils/exec"
	netutils "k8s.io/utils/net"
	"sigs.k8s.io/yaml"
)

// noSysctl pretends that every sysctl is 0 and can be set.
type noSysctl struct{}

func (noSysctl) GetSysctl(string) (int, error) { return 0, nil }
func (noSysctl) SetSysctl(string, int) error   { return nil }

// unmonitored leaves out the watch over the canaries.
type unmonitored struct{ utiliptables.Interface }

func (unmonitored) Monitor(utiliptables.Chain, []utiliptables.Table, func(), time.Duration, <-chan struct{}) {
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	flags := flag.NewFlagSet("scene", flag.ExitOnError)
	node := flags.String("node", "", "")
	clusterCIDR := flags.String("cluster-cidr", "", "")
	detectLocal := flags.String("detect-local", "cluster-cidr", "")
	masqueradeAll := flags.Bool("masquerade-all", false, "")
	masqueradeBit := flags.Int("masquerade-bit", 14, "")
	localhost := flags.Bool("localhost-nodeports", true, "")
	addresses := flags.String("nodeport-addresses", "", "")

	text, err := os.ReadFile(os.Args[1])
	check(err)
	header, _, _ := strings.Cut(string(text), "\n")
	check(flags.Parse(strings.Fields(strings.TrimPrefix(header, "#"))))

	var services []*v1.Service
	var slices []*discovery.EndpointSlice
	var nodes []*v1.Node
	for _, document := range strings.Split(string(text), "\n---\n") {
		kind := struct{ Kind string }{}
		check(yaml.Unmarshal([]byte(document), &kind))
		switch kind.Kind {
		case "Service":
			object := &v1.Service{}
			check(yaml.UnmarshalStrict([]byte(document), object))
			services = append(services, object)
		case "EndpointSlice":
			object := &discovery.EndpointSlice{}
			check(yaml.UnmarshalStrict([]byte(document), object))
			slices = append(slices, object)
		case "Node":
			object := &v1.Node{}
			check(yaml.UnmarshalStrict([]byte(document), object))
			nodes = append(nodes, object)
		default:
			check(fmt.Errorf("a scene has no %q", kind.Kind))
		}
	}

	nodeIPs := map[v1.IPFamily]net.IP{}
	for _, object := range nodes {
		if object.Name != *node {
			continue
		}
		for _, address := range object.Status.Addresses {
			ip := netutils.ParseIPSloppy(address.Address)
			if ip == nil {
				continue
			}
			family, length := v1.IPv4Protocol, "/24"
			if ip.To4() == nil {
				family, length = v1.IPv6Protocol, "/64"
			}
			if nodeIPs[family] == nil {
				nodeIPs[family] = ip
			}
			check(exec.Command("ip", "address", "add", address.Address+length, "dev", "node", "nodad").Run())
		}
	}

	for _, family := range []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol} {
		protocol, save := utiliptables.ProtocolIPv4, "iptables-save"
		if family == v1.IPv6Protocol {
			protocol, save = utiliptables.ProtocolIPv6, "ip6tables-save"
		}
		ipt := unmonitored{utiliptables.New(utilexec.New(), protocol)}
		detector := proxyutil.NewNoOpLocalDetector()
		mode, argument, _ := strings.Cut(*detectLocal, ":")
		switch mode {
		case "cluster-cidr":
			for _, cidr := range strings.Split(*clusterCIDR, ",") {
				if cidr != "" && netutils.IsIPv6CIDRString(cidr) == (family == v1.IPv6Protocol) {
					detector = proxyutil.NewDetectLocalByCIDR(cidr)
				}
			}
		case "bridge":
			detector = proxyutil.NewDetectLocalByBridgeInterface(argument)
		case "prefix":
			detector = proxyutil.NewDetectLocalByInterfaceNamePrefix(argument)
		case "none":
		default:
			check(fmt.Errorf("no mode %q", mode))
		}
		var nodePortAddresses []string
		if *addresses != "" {
			nodePortAddresses = strings.Split(*addresses, ",")
		}
		proxier, err := iptables.NewProxier(context.Background(), family,
			ipt, noSysctl{}, utilexec.New(),
			time.Hour, 0, *masqueradeAll, *localhost && family == v1.IPv4Protocol, *masqueradeBit,
			detector, *node, nodeIPs[family], nil, nil, nodePortAddresses, false)
		check(err)
		var provider proxy.Provider = proxier
		for _, object := range nodes {
			if object.Name == *node {
				provider.OnNodeAdd(object)
			}
		}
		for _, object := range services {
			provider.OnServiceAdd(object)
		}
		for _, object := range slices {
			provider.OnEndpointSliceAdd(object)
		}
		provider.OnServiceSynced()
		provider.OnEndpointSlicesSynced()

		// The monitor's, which a goroutine would make at some time or other.
		for _, table := range []utiliptables.Table{utiliptables.TableMangle, utiliptables.TableNAT, utiliptables.TableFilter} {
			_, err := ipt.EnsureChain(table, "KUBE-PROXY-CANARY")
			check(err)
		}
		output, err := exec.Command(save).Output()
		check(err)
		fmt.Println("# " + save)
		fmt.Print(string(output))
	}
}
