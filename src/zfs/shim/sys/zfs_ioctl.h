/* Included by packaged headers, not packaged itself; nothing of it is needed here. */
#ifndef ZPAIR_SHIM_ZFS_IOCTL_H
#define ZPAIR_SHIM_ZFS_IOCTL_H
#endif
