// Package scene reads a scene: flags of kube-proxy, and the objects that it is told of.
package scene

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	netutils "k8s.io/utils/net"
	"sigs.k8s.io/yaml"
)

// Scene is what a file says, the flags by their names.
type Scene struct {
	Node               string
	ClusterCIDR        string
	DetectLocal        string
	MasqueradeAll      bool
	MasqueradeBit      int
	LocalhostNodePorts bool
	NodePortAddresses  []string
	Services           []*v1.Service
	Slices             []*discovery.EndpointSlice
	Nodes              []*v1.Node
	// The node's own addresses, which the device "node" has from now on.
	NodeIPs map[v1.IPFamily]net.IP
}

// Read reads the file that the command line names. What a field is that this version of the API
// does not know: an error if it is strict, else nothing.
func Read(strict bool) *Scene {
	scene := &Scene{NodeIPs: map[v1.IPFamily]net.IP{}}
	text, err := os.ReadFile(os.Args[1])
	Check(err)
	header, _, _ := strings.Cut(string(text), "\n")
	scene.flags(strings.Fields(strings.TrimPrefix(header, "#")))
	unmarshal := func(document string, object interface{}) {
		if strict {
			Check(yaml.UnmarshalStrict([]byte(document), object))
		} else {
			Check(yaml.Unmarshal([]byte(document), object))
		}
	}
	for _, document := range strings.Split(string(text), "\n---\n") {
		kind := struct{ Kind string }{}
		Check(yaml.Unmarshal([]byte(document), &kind))
		switch kind.Kind {
		case "Service":
			object := &v1.Service{}
			unmarshal(document, object)
			scene.Services = append(scene.Services, object)
		case "EndpointSlice":
			object := &discovery.EndpointSlice{}
			unmarshal(document, object)
			scene.Slices = append(scene.Slices, object)
		case "Node":
			object := &v1.Node{}
			unmarshal(document, object)
			scene.Nodes = append(scene.Nodes, object)
		default:
			Check(fmt.Errorf("a scene has no %q", kind.Kind))
		}
	}
	scene.addresses()
	return scene
}

func (scene *Scene) flags(words []string) {
	flags := flag.NewFlagSet("scene", flag.ExitOnError)
	addresses := flags.String("nodeport-addresses", "", "")
	flags.StringVar(&scene.Node, "node", "", "")
	flags.StringVar(&scene.ClusterCIDR, "cluster-cidr", "", "")
	flags.StringVar(&scene.DetectLocal, "detect-local", "cluster-cidr", "")
	flags.BoolVar(&scene.MasqueradeAll, "masquerade-all", false, "")
	flags.IntVar(&scene.MasqueradeBit, "masquerade-bit", 14, "")
	flags.BoolVar(&scene.LocalhostNodePorts, "localhost-nodeports", true, "")
	Check(flags.Parse(words))
	if *addresses != "" {
		scene.NodePortAddresses = strings.Split(*addresses, ",")
	}
}

// addresses gives the node's to the device.
func (scene *Scene) addresses() {
	for _, object := range scene.Nodes {
		if object.Name != scene.Node {
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
			if scene.NodeIPs[family] == nil {
				scene.NodeIPs[family] = ip
			}
			Check(exec.Command("ip", "address", "add", address.Address+length, "dev", "node", "nodad").Run())
		}
	}
}

// CIDRs are the cluster's of this family.
func (scene *Scene) CIDRs(family v1.IPFamily) []string {
	var found []string
	for _, cidr := range strings.Split(scene.ClusterCIDR, ",") {
		if cidr != "" && netutils.IsIPv6CIDRString(cidr) == (family == v1.IPv6Protocol) {
			found = append(found, cidr)
		}
	}
	return found
}

// Proxier is what the objects are told to.
type Proxier interface {
	OnNodeAdd(*v1.Node)
	OnServiceAdd(*v1.Service)
	OnEndpointSliceAdd(*discovery.EndpointSlice)
	OnServiceSynced()
	OnEndpointSlicesSynced()
}

// Tell tells all objects, and that they are all.
func (scene *Scene) Tell(proxier Proxier) {
	for _, object := range scene.Nodes {
		if object.Name == scene.Node {
			proxier.OnNodeAdd(object)
		}
	}
	for _, object := range scene.Services {
		proxier.OnServiceAdd(object)
	}
	for _, object := range scene.Slices {
		proxier.OnEndpointSliceAdd(object)
	}
	proxier.OnServiceSynced()
	proxier.OnEndpointSlicesSynced()
}

// Print prints what iptables-save or its like says.
func Print(save string) {
	output, err := exec.Command(save).Output()
	Check(err)
	fmt.Println("# " + save)
	fmt.Print(string(output))
}

// NoSysctl pretends that every sysctl is 0 and can be set.
type NoSysctl struct{}

// GetSysctl is always 0.
func (NoSysctl) GetSysctl(string) (int, error) { return 0, nil }

// SetSysctl does nothing.
func (NoSysctl) SetSysctl(string, int) error { return nil }

// Check ends the program with what went wrong.
func Check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
