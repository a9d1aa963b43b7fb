// Every part of the addon adds its classes and functions to the exports by one of these.
#pragma once

#include <napi.h>

namespace virtkit {

void InitKvm(Napi::Env env, Napi::Object exports);
void InitMemory(Napi::Env env, Napi::Object exports);
void InitEvents(Napi::Env env, Napi::Object exports);
void InitPoller(Napi::Env env, Napi::Object exports);
void InitBlock(Napi::Env env, Napi::Object exports);
void InitNet(Napi::Env env, Napi::Object exports);
void InitUnix(Napi::Env env, Napi::Object exports);
void InitHost(Napi::Env env, Napi::Object exports);

}  // namespace virtkit
