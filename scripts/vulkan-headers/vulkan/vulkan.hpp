// Stands before the system's header of this name and adds what llama.cpp wants and headers before
// 1.3.272 (Debian 12 has 1.3.239) lack: the settings of a validation layer, which it fills in even
// where they are not used. With newer headers this adds nothing. See docs/deploying.md.
#pragma once
#include_next <vulkan/vulkan.hpp>

#if VK_HEADER_VERSION < 272
#include <cstdint>
#include <vector>

namespace VULKAN_HPP_NAMESPACE {
enum class LayerSettingTypeEXT { eBool32 = 0 };

struct LayerSettingEXT {
    const char * layer;
    const char * setting;
    LayerSettingTypeEXT type;
    uint32_t value_count;
    const void * values;
};

// In the layout of VkLayerSettingsCreateInfoEXT, without any setting.
struct LayerSettingsCreateInfoEXT {
    explicit LayerSettingsCreateInfoEXT(const std::vector<LayerSettingEXT> &) {}
    StructureType type = static_cast<StructureType>(1000496000);
    const void * next = nullptr;
    uint32_t setting_count = 0;
    const void * settings = nullptr;
};
} // namespace VULKAN_HPP_NAMESPACE
#endif
