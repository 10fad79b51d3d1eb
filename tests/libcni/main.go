// Does one step with libcni, the library that containerd, CRI-O and podman call plugins with: reads
// the list as they do, keeps results as they do, and says what came of it.
//
//	libcni LIST PLUGINS CACHE STEP [CONTAINER NETNS INTERFACE [CAPABILITIES]]
//	libcni LIST PLUGINS CACHE gc [CONTAINER/INTERFACE...]     those that are valid
//
// STEP is add, check, del, cached, attachments, validate or status. Standard output has the answer
// as JSON; of a failure its error, and then the program ends with 1.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

func main() {
	if len(os.Args) < 5 {
		fmt.Fprintln(os.Stderr, "usage: libcni LIST PLUGINS CACHE STEP [ARGUMENT...]")
		os.Exit(2)
	}
	answer, err := step(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5:])
	if err != nil {
		failure := map[string]any{"msg": err.Error()}
		var told *types.Error
		if errors.As(err, &told) {
			failure = map[string]any{"code": told.Code, "msg": told.Msg, "details": told.Details}
		}
		say(failure)
		os.Exit(1)
	}
	say(answer)
}

func say(answer any) {
	text, err := json.Marshal(answer)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	fmt.Println(string(text))
}

func step(file, plugins, cache, name string, arguments []string) (any, error) {
	ctx := context.Background()
	list, err := libcni.ConfListFromFile(file)
	if err != nil {
		return nil, err
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{plugins}, cache, nil)
	switch name {
	case "status":
		return list.CNIVersion, cni.GetStatusNetworkList(ctx, list)
	case "validate":
		capabilities, err := cni.ValidateNetworkList(ctx, list)
		sort.Strings(capabilities)
		return capabilities, err
	case "attachments":
		cached, err := cni.GetCachedAttachments("")
		names := []string{}
		for _, attachment := range cached {
			names = append(names, attachment.ContainerID+"/"+attachment.IfName)
		}
		return names, err
	case "gc":
		valid := []types.GCAttachment{}
		for _, argument := range arguments {
			container, interfaceName, _ := strings.Cut(argument, "/")
			valid = append(valid, types.GCAttachment{ContainerID: container, IfName: interfaceName})
		}
		return nil, cni.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: valid})
	}
	rt, err := runtimeConf(arguments)
	if err != nil {
		return nil, err
	}
	switch name {
	case "add":
		return cni.AddNetworkList(ctx, list, rt)
	case "check":
		return nil, cni.CheckNetworkList(ctx, list, rt)
	case "del":
		return nil, cni.DelNetworkList(ctx, list, rt)
	case "cached":
		return cni.GetNetworkListCachedResult(list, rt)
	default:
		return nil, fmt.Errorf("there is no step %q", name)
	}
}

func runtimeConf(arguments []string) (*libcni.RuntimeConf, error) {
	if len(arguments) < 3 {
		return nil, errors.New("a container, its namespace and its interface are missing")
	}
	rt := &libcni.RuntimeConf{
		ContainerID: arguments[0],
		NetNS:       arguments[1],
		IfName:      arguments[2],
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", "default"},
			{"K8S_POD_NAME", "pod-" + arguments[0]},
			{"K8S_POD_INFRA_CONTAINER_ID", arguments[0]},
		},
	}
	if len(arguments) > 3 {
		return rt, json.Unmarshal([]byte(arguments[3]), &rt.CapabilityArgs)
	}
	return rt, nil
}
